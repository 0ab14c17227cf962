SELECT count(*) FROM {keys} k LEFT JOIN {keys} p ON p.{k.id} = k.{k.parent} AND p.{k.account} = k.{k.account}
WHERE k.{k.parent} IS NOT NULL AND p.{k.id} IS NULL
