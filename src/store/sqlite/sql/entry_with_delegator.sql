SELECT e.id, e.account_id, e.key_id, e.kind, e.amount, e.at, e.counts_at, e.refunds, e.labels, e.reference,
    (SELECT k.delegated_by FROM agent_keys k WHERE k.id = e.key_id)
FROM agentkey_entries e
WHERE e.id = ?1
