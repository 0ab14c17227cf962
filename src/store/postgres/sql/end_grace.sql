DELETE FROM {retired_tokens} WHERE key_id = $1 AND sub IS NULL
