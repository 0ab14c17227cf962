-- The lineages of keys by the hashes of their tokens. It runs on every request: one statement for all hashes of a
-- batch. If the application's own SQL took a rotation back, a token is both retired and present. It counts as present.
-- The digest of a subject finds the row of the application's that it is bound to, as a present token does.
WITH RECURSIVE chain AS (
    SELECT w.place, 0 AS depth, NULL::timestamptz AS retires_at, k.*
    FROM unnest($1::text[]) WITH ORDINALITY w (hash, place)
    CROSS JOIN LATERAL (SELECT {of_key} FROM {keys} k WHERE k.{k.hash} = w.hash::{hash_type} OFFSET 0) k
    WHERE {writable}
    UNION ALL
    SELECT w.place, 0, CASE WHEN t.sub IS NULL THEN t.retires_at END, k.*
    FROM unnest($1::text[]) WITH ORDINALITY w (hash, place)
    CROSS JOIN LATERAL (
        SELECT * FROM {retired_tokens} t WHERE t.key_hash = w.hash AND t.retires_at > coalesce($2, statement_timestamp())
            AND NOT EXISTS (SELECT FROM {keys} k WHERE k.{k.hash} = w.hash::{hash_type}) OFFSET 0
    ) t
    CROSS JOIN LATERAL (SELECT {of_key} FROM {keys} k WHERE k.{k.id} = t.key_id AND {bound} OFFSET 0) k
    {ancestors}
)
SELECT {of_chain}
