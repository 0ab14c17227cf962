-- Marks an account as changed. Makes its row if there is none.
INSERT INTO {accounts} AS a (id, version, changed_at, period, created_at, spent, held, since, next_expiry, last_entry)
VALUES (
    $1, $5, $2, $3, $2, 0, 0, $4,
    {rest_of_account}
)
ON CONFLICT (id) DO UPDATE SET
    version = a.version + $5, changed_at = greatest(a.changed_at, excluded.changed_at)
