-- The charges of a key and its descendants in its account.
WITH RECURSIVE family (id) AS (
    SELECT $1::int8 UNION SELECT k.{k.id}::int8 FROM family f JOIN {keys} k ON k.{k.parent} = f.id
)
SELECT coalesce(sum(s.high), 0)::int8, coalesce(sum(s.low), 0)::int8 FROM (
    SELECT e.amount >> 32 AS high, e.amount & 4294967295 AS low
    FROM family f
    JOIN {entries} e ON e.key_id = f.id AND e.seq >= $2
    WHERE e.counts_at >= $3 AND e.account_id = $4
    UNION ALL
    SELECT r.amount_high + r.adjusted_high, r.amount_low + r.adjusted_low
    FROM family f
    JOIN {rollups} r ON r.key_id = f.id AND r.counts_at >= $3
    WHERE r.account_id = $4
) s
