SELECT c.key_id, c.idempotency_key, c.fingerprint, c.owner, c.in_flight_until, c.entry
FROM agentkey_idempotency_keys c
WHERE c.key_id = ?1 AND c.idempotency_key = ?2
