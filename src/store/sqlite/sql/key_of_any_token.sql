SELECT id FROM agent_keys WHERE key_hash = ?1
UNION ALL SELECT key_id FROM agentkey_retired_tokens WHERE key_hash = ?1
