SELECT t.key_id, t.retires_at FROM agentkey_retired_tokens t WHERE t.key_hash = ?1 AND t.retires_at > ?2
