SELECT u.key_id, u.used_at FROM {last_used} u WHERE u.key_id = ANY($1::int8[])
