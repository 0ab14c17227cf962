INSERT INTO agentkey_last_used (key_id, used_at) VALUES (?1, ?2)
ON CONFLICT (key_id) DO UPDATE SET used_at = max(used_at, excluded.used_at)
