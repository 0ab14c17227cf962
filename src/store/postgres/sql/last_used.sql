SELECT u.key_id, u.used_at FROM {uses} u WHERE u.key_id = ANY($1::int8[])
