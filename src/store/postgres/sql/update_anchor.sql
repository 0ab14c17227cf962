UPDATE {balances} SET anchor = $2 WHERE key_id = $1
