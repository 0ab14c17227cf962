SELECT min(h.expires_at) FROM agentkey_holds h
WHERE h.account_id = ?1 AND h.state = 'live' AND h.expires_at > ?2
