-- Deletes entries, and the idempotency keys that are bound to them. Returns how many of each.
WITH entries AS (
    DELETE FROM {entries} e WHERE e.id = ANY ($1::uuid[]) RETURNING e.id
), claims AS (
    DELETE FROM {idempotency_keys} c WHERE c.entry = ANY ($1::uuid[]) RETURNING c.key_id
)
SELECT (SELECT count(*) FROM entries), (SELECT count(*) FROM claims)
