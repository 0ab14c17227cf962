INSERT INTO agentkey_idempotency_keys (key_id, idempotency_key, fingerprint, owner, in_flight_until, entry)
VALUES (?1, ?2, ?3, ?4, ?5, ?6)
ON CONFLICT (key_id, idempotency_key) DO UPDATE
SET fingerprint = excluded.fingerprint, owner = excluded.owner, in_flight_until = excluded.in_flight_until, entry = excluded.entry
