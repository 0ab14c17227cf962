-- Deletes those whose request never ended among the next idempotency keys. Returns the last of these, and how many were
-- deleted.
WITH seen AS MATERIALIZED (
    SELECT c.key_id, c.idempotency_key, c.entry IS NULL AND c.in_flight_until < $3 AS is_dead FROM {idempotency_keys} c
    WHERE (c.key_id, c.idempotency_key) > ($1, $2) ORDER BY c.key_id, c.idempotency_key LIMIT $4
), deleted AS (
    DELETE FROM {idempotency_keys} c USING (SELECT * FROM seen WHERE is_dead OFFSET 0) d
    WHERE c.key_id = d.key_id AND c.idempotency_key = d.idempotency_key AND c.entry IS NULL AND c.in_flight_until < $3
    RETURNING c.key_id
)
SELECT l.key_id, l.idempotency_key, (SELECT count(*) FROM deleted)
FROM (SELECT s.* FROM seen s ORDER BY s.key_id DESC, s.idempotency_key DESC LIMIT 1) l
