INSERT INTO {events} (at, account_id, key_id, key_name, lineage, delegated_by, kind, actor, request_id, route, detail)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8::jsonb, $9, $10, $11::jsonb)
