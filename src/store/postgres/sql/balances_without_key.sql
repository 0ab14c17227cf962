-- The keys of an account that have money and no row any more. An adopted table has no rule against that.
SELECT b.key_id FROM {balances} b
WHERE b.account_id = $1 AND NOT EXISTS (SELECT FROM {keys} k WHERE k.{k.id} = b.key_id)
