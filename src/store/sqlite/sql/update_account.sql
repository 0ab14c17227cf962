UPDATE agentkey_accounts SET version = version + 1, changed_at = ?2, limit_micros = ?3, period = ?4, more_limits = ?5,
    spent = ?7, held = ?8, since = ?9, more_spent = ?10
WHERE id = ?1 AND ?6 IS NOT NULL
