INSERT INTO agentkey_balances (key_id, period, spent, held, since, more_spent) VALUES (?1, ?2, ?3, ?4, ?5, ?6)
ON CONFLICT (key_id) DO UPDATE
SET period = excluded.period, spent = excluded.spent, held = excluded.held, since = excluded.since,
    more_spent = excluded.more_spent
