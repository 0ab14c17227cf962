-- The key of a subject, by its digest or by its binding while that stands.
SELECT k.{k.id}::int8 FROM {keys} k WHERE k.{k.hash} = $1::{hash_type}
UNION ALL
SELECT k.{k.id}::int8 FROM {retired_tokens} t
CROSS JOIN LATERAL (SELECT * FROM {keys} k WHERE k.{k.id} = t.key_id OFFSET 0) k
WHERE t.key_hash = $1 AND {bound}
LIMIT 1
