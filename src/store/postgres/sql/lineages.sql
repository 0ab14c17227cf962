-- The lineages of keys by their ids.
WITH RECURSIVE chain AS (
    SELECT w.place, 0 AS depth, NULL::timestamptz AS retires_at, k.*
    FROM unnest($1::int8[]) WITH ORDINALITY w (id, place)
    CROSS JOIN LATERAL (SELECT {of_key} FROM {keys} k WHERE k.{k.id} = w.id OFFSET 0) k
    WHERE {writable}
    {ancestors}
)
SELECT {of_chain}
