-- The keys that have money and no row any more. A row that was replaced fires no trigger.
SELECT b.key_id FROM agentkey_balances b WHERE NOT EXISTS (SELECT 1 FROM agent_keys k WHERE k.id = b.key_id)
