SELECT kid, algorithm, secret, created_at FROM agentkey_signing_keys ORDER BY created_at
