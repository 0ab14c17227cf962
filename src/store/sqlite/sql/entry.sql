SELECT e.id, e.account_id, e.key_id, e.kind, e.amount, e.at, e.counts_at, e.refunds, e.labels, e.reference,
    coalesce((SELECT -sum(r.amount) FROM agentkey_entries r WHERE r.refunds = e.id), 0)
FROM agentkey_entries e
WHERE e.id = ?1
