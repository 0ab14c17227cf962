UPDATE agentkey_ledger SET state = random() WHERE id = 0
RETURNING (SELECT p.version FROM agentkey_policy p WHERE p.id = 0), state
