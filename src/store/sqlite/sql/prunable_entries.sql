-- The entries numbered from above ?1 up to ?2 that can be rolled up: what was written before ?3, each charge with all its
-- refunds. A charge stays while a refund of it is younger, or while a request may still add to it.
WITH charges AS MATERIALIZED (
    SELECT e.number, e.id FROM agentkey_entries e
    WHERE e.number > ?1 AND e.number <= ?2 AND e.at < ?3
        AND (e.refunds IS NULL OR NOT EXISTS (SELECT 1 FROM agentkey_entries o WHERE o.id = e.refunds))
        AND NOT EXISTS (SELECT 1 FROM agentkey_entries r WHERE r.refunds = e.id AND r.at >= ?3)
        AND NOT EXISTS (SELECT 1 FROM agentkey_idempotency_keys c WHERE c.entry = e.id AND c.in_flight_until >= ?3)
)
SELECT coalesce(e.refunds, e.id), e.number, e.seq, e.id, e.account_id, e.key_id, e.kind, e.amount, e.at, e.counts_at, e.refunds, e.labels, e.reference
FROM charges c CROSS JOIN agentkey_entries e ON e.number = c.number
UNION ALL
SELECT e.refunds, e.number, e.seq, e.id, e.account_id, e.key_id, e.kind, e.amount, e.at, e.counts_at, e.refunds, e.labels, e.reference
FROM charges c CROSS JOIN agentkey_entries e ON e.refunds = c.id
