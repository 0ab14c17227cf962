DELETE FROM {retired_tokens} WHERE key_hash = $3 OR key_id = $1 AND retires_at <= $2
