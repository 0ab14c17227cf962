-- The live holds of an account, or those of a key and its descendants.
SELECT {sum} FROM {holds} e WHERE e.account_id = $1 AND e.state = 'live' AND ($2::int8 IS NULL OR $2 = ANY (e.path))
