-- Writes in the order of the keys, so that processes that write the same keys wait and do not deadlock.
INSERT INTO {last_used} AS u (key_id, used_at)
SELECT w.key_id, w.used_at FROM unnest($1::int8[], $2::timestamptz[]) w (key_id, used_at) ORDER BY w.key_id
ON CONFLICT (key_id) DO UPDATE SET used_at = greatest(u.used_at, excluded.used_at)
