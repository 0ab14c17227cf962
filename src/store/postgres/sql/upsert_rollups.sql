INSERT INTO {rollups} AS s
    (id, account_id, key_id, counts_at, labels, amount_high, amount_low, charges, adjusted_high, adjusted_low)
SELECT w.id, w.account_id, w.key_id, w.counts_at, w.labels::jsonb, w.amount_high, w.amount_low, w.charges, w.adjusted_high,
    w.adjusted_low
FROM unnest($1::uuid[], $2::text[], $3::int8[], $4::timestamptz[], $5::text[], $6::int8[], $7::int8[], $8::int8[], $9::int8[],
    $10::int8[])
    w (id, account_id, key_id, counts_at, labels, amount_high, amount_low, charges, adjusted_high, adjusted_low)
ON CONFLICT (id) DO UPDATE SET
    amount_high = s.amount_high + excluded.amount_high, amount_low = s.amount_low + excluded.amount_low,
    charges = s.charges + excluded.charges,
    adjusted_high = s.adjusted_high + excluded.adjusted_high, adjusted_low = s.adjusted_low + excluded.adjusted_low
