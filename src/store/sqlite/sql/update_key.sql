-- Metadata that is not changed stays as it is: the application's own SQL may have written what cannot be read.
UPDATE agent_keys SET name = ?2, scopes = ?3, limit_micros = ?4, period = ?5, more_limits = ?6, expires_at = ?7,
    disabled_at = ?8, metadata = CASE WHEN ?10 THEN ?9 ELSE metadata END
WHERE id = ?1
