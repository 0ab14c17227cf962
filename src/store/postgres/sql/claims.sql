SELECT c.key_id, c.idempotency_key, c.fingerprint, c.owner, c.in_flight_until, c.entry
FROM unnest($1::int8[], $2::text[]) w (key_id, idempotency_key)
CROSS JOIN LATERAL (
    SELECT * FROM {idempotency_keys} c WHERE c.key_id = w.key_id AND c.idempotency_key = w.idempotency_key OFFSET 0
) c
