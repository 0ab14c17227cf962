SELECT p.version, l.state FROM agentkey_policy p CROSS JOIN agentkey_ledger l WHERE p.id = 0 AND l.id = 0
