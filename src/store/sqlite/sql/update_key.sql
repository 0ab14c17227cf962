-- Metadata and ranges that are not changed stay as they are: the application's own SQL may have written what cannot be
-- read.
UPDATE agent_keys SET name = ?2, scopes = ?3, limit_micros = ?4, period = ?5, more_limits = ?6, expires_at = ?7,
    disabled_at = ?8, metadata = CASE WHEN ?10 THEN ?9 ELSE metadata END, rate_limit = ?11, 
    allowed_cidrs = CASE WHEN ?13 THEN ?12 ELSE allowed_cidrs END
WHERE id = ?1
