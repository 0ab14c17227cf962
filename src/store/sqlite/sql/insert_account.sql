INSERT INTO agentkey_accounts (id, version, changed_at, limit_micros, period, created_at, spent, held, since)
VALUES (?1, 1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)
