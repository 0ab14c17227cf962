-- The next entries of the accounts from $1 to $6 that can be rolled up: what was written before $4. A charge stays while a
-- refund of it is younger, or while a request may still add to it.
SELECT e.seq, e.account_id, coalesce(e.refunds, e.id), {of_entry}
FROM (SELECT a.id FROM {accounts} a WHERE a.id >= $1 AND a.id <= $6 ORDER BY a.id OFFSET 0) a
CROSS JOIN LATERAL (
    SELECT * FROM {entries} e
    WHERE e.account_id = a.id AND e.seq > CASE WHEN a.id = $1 THEN $2 ELSE -9223372036854775808 END AND e.seq < $3 AND e.at < $4
        AND (e.refunds IS NULL OR NOT EXISTS (SELECT FROM {entries} o WHERE o.id = e.refunds))
        AND NOT EXISTS (SELECT FROM {entries} r WHERE r.refunds = e.id AND r.at >= $4)
        AND NOT EXISTS (SELECT FROM {idempotency_keys} c WHERE c.entry = e.id AND c.in_flight_until >= $4)
    ORDER BY e.seq LIMIT $5
) e
LIMIT $5
