SELECT k.{k.account}::text FROM {keys} k WHERE k.{k.id} = $1 FOR NO KEY UPDATE
