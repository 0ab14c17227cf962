-- The live holds of an account, or those of a key and its descendants. The sum is in two halves, which leave room for any
-- number of them.
SELECT coalesce(sum(h.amount >> 32), 0)::int8, coalesce(sum(h.amount & 4294967295), 0)::int8
FROM {holds} h WHERE h.account_id = $1 AND h.state = 'live' AND ($2::int8 IS NULL OR $2 = ANY (h.path))
