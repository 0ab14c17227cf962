DELETE FROM {first_seen} WHERE key_hash = $1 AND owner = $2 OR until <= coalesce($3, clock_timestamp())
