INSERT INTO {retired_tokens} (key_hash, key_id, retires_at)
SELECT k.{k.hash}::text, k.{k.id}::int8, $3 FROM {keys} k WHERE k.{k.id} = $1 AND k.{k.hash} <> $2::{hash_type}
ON CONFLICT (key_hash) DO UPDATE SET key_id = excluded.key_id, retires_at = excluded.retires_at
