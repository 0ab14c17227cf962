SELECT count(*) FROM {table} k LEFT JOIN {table} p ON p.{id} = k.{parent} AND p.{account} = k.{account}
WHERE k.{parent} IS NOT NULL AND p.{id} IS NULL
