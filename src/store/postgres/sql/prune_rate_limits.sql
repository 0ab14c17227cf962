-- Deletes some rows of which nothing is in use. Returns how many. `agentkey_take_rates` makes a row again that it needs.
WITH unused AS MATERIALIZED (
    SELECT r.key_id FROM {rate_limits} r WHERE r.used_until < $1 LIMIT $2 FOR UPDATE SKIP LOCKED
), deleted AS (
    DELETE FROM {rate_limits} r USING (SELECT * FROM unused OFFSET 0) u WHERE r.key_id = u.key_id RETURNING r.key_id
)
SELECT count(*) FROM deleted
