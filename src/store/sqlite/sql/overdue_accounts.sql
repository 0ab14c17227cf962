SELECT a.id FROM agentkey_holds h CROSS JOIN agentkey_accounts a ON a.id = h.account_id
WHERE h.state = 'live' AND h.expires_at <= ?1
GROUP BY a.id ORDER BY min(h.expires_at) LIMIT 100
