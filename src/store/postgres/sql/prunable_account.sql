-- The first account, from the one after which a run goes on, that has entries written before $3.
SELECT a.id FROM {accounts} a
WHERE a.id >= $1 AND EXISTS (
    SELECT FROM {entries} e
    WHERE e.account_id = a.id AND e.seq > CASE WHEN a.id = $1 THEN $2 ELSE -9223372036854775808 END AND e.seq < $3
)
ORDER BY a.id LIMIT 1
