-- How many children of a key are neither revoked nor expired.
SELECT count(*) FROM {keys} k
WHERE k.{k.parent} = $1 AND k.{k.revoked_at} IS NULL
    AND (k.{k.expires_at} IS NULL OR k.{k.expires_at} > $2::timestamptz{zone.expires_at})
