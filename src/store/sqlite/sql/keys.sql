SELECT k.id, k.account_id, k.parent_id, k.name, k.prefix, k.start, k.issuer, k.sub, k.scopes, k.limit_micros, k.period, k.more_limits,
    k.rate_limit, k.allowed_cidrs,
    k.created_at, k.expires_at, k.disabled_at, k.revoked_at, k.revoked_reason, k.delegated_by, k.metadata,
    b.period, b.spent, b.held, b.since, b.more_spent, b.anchor,
    a.id, a.limit_micros, a.period, a.more_limits, a.created_at, a.spent, a.held, a.since, a.more_spent,
    a.version, a.changed_at, a.next_expiry, a.last_entry
FROM agent_keys k CROSS JOIN agentkey_accounts a ON a.id = k.account_id LEFT JOIN agentkey_balances b ON b.key_id = k.id
WHERE {owner} AND {kind} AND k.id > ?2 ORDER BY k.id LIMIT ?3
