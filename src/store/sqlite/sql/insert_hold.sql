INSERT INTO agentkey_holds
    (id, account_id, key_id, path, amount, created_at, expires_at, on_expiry, labels, reference, state)
VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)
