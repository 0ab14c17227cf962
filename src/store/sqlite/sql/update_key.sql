UPDATE agent_keys SET name = ?2, scopes = ?3, limit_micros = ?4, period = ?5, more_limits = ?6, expires_at = ?7,
    disabled_at = ?8, metadata = ?9
WHERE id = ?1
