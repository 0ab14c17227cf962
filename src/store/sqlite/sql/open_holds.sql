SELECT h.id, h.account_id, h.key_id, h.path, h.amount, h.created_at, h.expires_at, h.on_expiry, h.labels, h.reference, h.state
FROM agentkey_holds h
WHERE h.state = 'live' ORDER BY h.created_at, h.id LIMIT ?1
