UPDATE {retired_tokens} SET retires_at = least(retires_at, $2) WHERE key_id = $1 AND sub IS NULL
