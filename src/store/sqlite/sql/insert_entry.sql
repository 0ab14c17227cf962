INSERT INTO agentkey_entries
    (number, id, seq, account_id, key_id, kind, amount, at, counts_at, refunds, labels, reference, account_part)
VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13)
