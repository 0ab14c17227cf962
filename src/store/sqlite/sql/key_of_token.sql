SELECT k.id, k.account_id, k.parent_id, k.name, k.prefix, k.start, k.issuer, k.sub, k.scopes, k.limit_micros, k.period, k.more_limits,
    k.rate_limit, k.allowed_cidrs,
    k.created_at, k.expires_at, k.disabled_at, k.revoked_at, k.revoked_reason, k.delegated_by, k.metadata,
    b.period, b.spent, b.held, b.since, b.more_spent, b.anchor
FROM agent_keys k LEFT JOIN agentkey_balances b ON b.key_id = k.id
WHERE k.key_hash = ?1
