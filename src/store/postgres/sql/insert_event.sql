INSERT INTO {events} (at, account_id, key_id, kind, detail) VALUES ($1, $2, $3, $4, $5::jsonb)
