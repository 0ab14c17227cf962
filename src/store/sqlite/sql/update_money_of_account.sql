UPDATE agentkey_accounts SET changed_at = ?2, spent = ?3, held = ?4, since = ?5, next_expiry = ?6, last_entry = ?7
WHERE id = ?1
