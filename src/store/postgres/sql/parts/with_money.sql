-- OFFSET 0 keeps the planner from reversing the search: a plan made while a table is small would scan all of it.
LEFT JOIN LATERAL (SELECT * FROM {balances} b WHERE b.key_id = c.id OFFSET 0) b ON true
LEFT JOIN LATERAL (SELECT * FROM {accounts} a WHERE a.id = c.account OFFSET 0) a ON true
