-- Binds the digest of a subject to the row that the application has for it: the first one, if it has several.
INSERT INTO {retired_tokens} (key_hash, key_id, retires_at, issuer, sub)
SELECT $1, k.{k.id}::int8, 'infinity', $2, $3 FROM {keys} k
WHERE k.{k.sub} = $3 AND k.{k.sub}::text COLLATE "C" = $3 AND coalesce(k.{k.issuer}::text, {issuer}) COLLATE "C" = $2
    AND NOT EXISTS (SELECT FROM {keys} k WHERE k.{k.hash} = $1::{hash_type})
ORDER BY k.{k.id} LIMIT 1
ON CONFLICT (key_hash) DO UPDATE SET key_id = excluded.key_id
