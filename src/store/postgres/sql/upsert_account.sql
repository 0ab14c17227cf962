INSERT INTO {accounts} AS a (
    id, version, changed_at, limit_micros, period, created_at, spent, held, since, more_limits, more_spent, next_expiry, last_entry
)
VALUES (
    $1, $9, $2, $3, $4, $5, $6, $7, $8, $10::jsonb, $11::jsonb,
    {rest_of_account}
)
ON CONFLICT (id) DO UPDATE SET
    version = a.version + $9, changed_at = excluded.changed_at, limit_micros = excluded.limit_micros,
    period = excluded.period, spent = excluded.spent, held = excluded.held, since = excluded.since,
    more_limits = excluded.more_limits, more_spent = excluded.more_spent
