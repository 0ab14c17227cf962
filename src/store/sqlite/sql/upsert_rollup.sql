INSERT INTO agentkey_rollups AS s
    (id, account_id, key_id, counts_at, labels, amount_high, amount_low, charges, adjusted_high, adjusted_low)
VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)
ON CONFLICT (id) DO UPDATE SET
    amount_high = s.amount_high + excluded.amount_high, amount_low = s.amount_low + excluded.amount_low,
    charges = s.charges + excluded.charges,
    adjusted_high = s.adjusted_high + excluded.adjusted_high, adjusted_low = s.adjusted_low + excluded.adjusted_low
