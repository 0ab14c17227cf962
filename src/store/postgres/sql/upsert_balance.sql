-- The money of a key stays in one account. If the key was moved in the meantime, the statement fails (NOT NULL).
INSERT INTO {balances} AS b (key_id, account_id, period, spent, held, since, more_spent)
VALUES ($1, $2, $3, $4, $5, $6, $7::jsonb)
ON CONFLICT (key_id) DO UPDATE SET
    period = CASE WHEN b.account_id = excluded.account_id THEN excluded.period END,
    spent = excluded.spent, held = excluded.held, since = excluded.since,
    more_spent = excluded.more_spent
