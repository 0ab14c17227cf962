INSERT INTO agentkey_signing_keys (kid, algorithm, secret, created_at) VALUES (?1, ?2, ?3, ?4)
