SELECT a.id, a.limit_micros, a.period, a.more_limits, a.created_at, a.spent, a.held, a.since, a.more_spent,
    a.version, a.changed_at, a.next_expiry, a.last_entry
FROM agentkey_accounts a
WHERE a.id > ?1 ORDER BY a.id LIMIT ?2
