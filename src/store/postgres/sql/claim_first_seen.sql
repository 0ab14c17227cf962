INSERT INTO {first_seen} AS c (key_hash, owner, until)
VALUES ($1, $2, coalesce($4, clock_timestamp()) + $3::int8 * interval '1 microsecond')
ON CONFLICT (key_hash) DO UPDATE SET owner = excluded.owner, until = excluded.until
WHERE c.owner = excluded.owner OR c.until <= coalesce($4, clock_timestamp())
RETURNING true
