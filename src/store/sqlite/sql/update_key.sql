UPDATE agent_keys SET name = ?2, scopes = ?3, limit_micros = ?4, period = ?5, expires_at = ?6
WHERE id = ?1
