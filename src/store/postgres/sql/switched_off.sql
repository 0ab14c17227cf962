SELECT {switched_off_by} FROM {keys} k WHERE k.{k.id} = $1
