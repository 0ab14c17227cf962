(SELECT k.{k.delegated_by}::text FROM {keys} k WHERE k.{k.id} = e.key_id)
