-- Accounts without a row that have keys.
SELECT 1
FROM {keys} k
WHERE k.{k.id} = ANY($2::int8[]) AND k.{k.account}::text = ANY($1::text[])
    AND NOT EXISTS (SELECT 1 FROM {accounts} a WHERE a.id = k.{k.account}::text COLLATE "C")
LIMIT 1
