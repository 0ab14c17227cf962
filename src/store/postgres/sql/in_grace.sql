-- How many tokens of a key were rotated away and still work.
SELECT count(*) FROM {retired_tokens} WHERE key_id = $1 AND retires_at > $2 AND sub IS NULL
