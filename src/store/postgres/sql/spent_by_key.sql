-- The charges of a key and its descendants in its account.
WITH RECURSIVE family (id) AS (
    SELECT $1::int8 UNION SELECT k.{k.id}::int8 FROM family f JOIN {keys} k ON k.{k.parent} = f.id
)
SELECT {sum}
FROM family f
JOIN {entries} e ON e.key_id = f.id AND e.seq >= $2
WHERE e.counts_at >= $3 AND e.account_id = $4
