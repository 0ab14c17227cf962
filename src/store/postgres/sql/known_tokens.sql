SELECT k.{k.hash}::text, k.{k.id}::int8 FROM unnest($1::text[]) w (hash)
CROSS JOIN LATERAL (SELECT * FROM {keys} k WHERE k.{k.hash} = w.hash::{hash_type} OFFSET 0) k
UNION ALL
SELECT t.key_hash, t.key_id FROM {retired_tokens} t WHERE t.key_hash = ANY ($1::text[])
