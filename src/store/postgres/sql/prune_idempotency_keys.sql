-- Deletes some idempotency keys whose request never ended. Returns how many.
WITH dead AS MATERIALIZED (
    SELECT c.key_id, c.idempotency_key FROM {idempotency_keys} c
    WHERE c.entry IS NULL AND c.in_flight_until < $1 LIMIT $2 FOR UPDATE SKIP LOCKED
), deleted AS (
    DELETE FROM {idempotency_keys} c USING (SELECT * FROM dead OFFSET 0) d
    WHERE c.key_id = d.key_id AND c.idempotency_key = d.idempotency_key RETURNING c.key_id
)
SELECT count(*) FROM deleted
