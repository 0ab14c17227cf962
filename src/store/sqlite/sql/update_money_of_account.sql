UPDATE agentkey_accounts SET changed_at = ?2, spent = ?3, held = ?4, since = ?5, more_spent = ?6, next_expiry = ?7,
    last_entry = ?8
WHERE id = ?1
