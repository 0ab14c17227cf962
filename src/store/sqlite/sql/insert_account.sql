INSERT INTO agentkey_accounts
    (id, version, changed_at, limit_micros, period, more_limits, created_at, spent, held, since, more_spent)
VALUES (?1, 1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)
