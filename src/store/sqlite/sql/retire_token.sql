INSERT INTO agentkey_retired_tokens (key_hash, key_id, retires_at)
SELECT key_hash, id, ?3 FROM agent_keys WHERE id = ?1 AND key_hash <> ?2
ON CONFLICT (key_hash) DO UPDATE SET key_id = excluded.key_id, retires_at = excluded.retires_at
