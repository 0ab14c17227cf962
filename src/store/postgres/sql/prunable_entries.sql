-- The next entries of an account that can be rolled up: what was written before $4. A charge stays while a refund of it
-- is younger, or while a request may still add to it.
SELECT e.seq, {of_entry}
FROM {entries} e
WHERE e.account_id = $1 AND e.seq > $2 AND e.seq < $3 AND e.at < $4
    AND (e.refunds IS NULL OR NOT EXISTS (SELECT FROM {entries} o WHERE o.id = e.refunds))
    AND NOT EXISTS (SELECT FROM {entries} r WHERE r.refunds = e.id AND r.at >= $4)
    AND NOT EXISTS (SELECT FROM {idempotency_keys} c WHERE c.entry = e.id AND c.in_flight_until >= $4)
ORDER BY e.seq LIMIT $5
