SELECT k.id, k.account_id, k.parent_id, k.name, k.prefix, k.start, k.scopes, k.limit_micros, k.period, k.created_at, k.expires_at,
    k.revoked_at, b.period, b.spent, b.held, b.since
FROM agent_keys k LEFT JOIN agentkey_balances b ON b.key_id = k.id
WHERE k.id = ?1
