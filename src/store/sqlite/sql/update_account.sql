UPDATE agentkey_accounts SET version = version + 1, changed_at = ?2, limit_micros = ?3, period = ?4, spent = ?6, held = ?7, since = ?8
WHERE id = ?1 AND ?5 IS NOT NULL
