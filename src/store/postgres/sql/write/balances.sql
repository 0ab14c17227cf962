-- The money of a key stays in one account: a key that was moved meanwhile makes the statement fail (NOT NULL).
INSERT INTO {balances} AS b ({names}) SELECT {values} FROM {rows}
ON CONFLICT (key_id) DO UPDATE SET
    period = CASE WHEN b.account_id = excluded.account_id THEN excluded.period END, {updates}
