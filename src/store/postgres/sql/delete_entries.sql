-- Deletes entries, and the idempotency keys that are bound to them. Returns how many of the latter.
WITH entries AS (
    DELETE FROM {entries} e WHERE e.id = ANY ($1::uuid[])
), claims AS (
    DELETE FROM {idempotency_keys} c WHERE c.entry = ANY ($1::uuid[]) RETURNING c.key_id
)
SELECT count(*) FROM claims
