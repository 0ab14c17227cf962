-- A page of keys, of an account or of a parent ({owner}).
SELECT c.*, {of_balance}, {of_account}, {server_time}
FROM (SELECT {of_key} FROM {keys} k WHERE {owner} AND {kind} AND k.{k.id} > $2 ORDER BY k.{k.id} LIMIT $3) c
{with_money}
ORDER BY c.id
