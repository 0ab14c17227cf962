SELECT number, seq, account_id, account_part, key_id FROM agentkey_entries
WHERE number > ?2 AND number <= ?3 AND ?1 IN (key_id & 15, 16 + (account_part & 15))
ORDER BY number LIMIT ?4
