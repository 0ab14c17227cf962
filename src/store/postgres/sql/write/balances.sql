-- The money of a key stays in one account. If the key was moved in the meantime, the statement fails (NOT NULL).
INSERT INTO {balances} AS b ({names}) SELECT {values} FROM {rows}
ON CONFLICT (key_id) DO UPDATE SET
    period = CASE WHEN b.account_id = excluded.account_id THEN excluded.period END, {updates}
