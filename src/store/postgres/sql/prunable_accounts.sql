-- The last of the next accounts, and how many these are.
SELECT max(a.id), count(*) FROM (SELECT a.id FROM {accounts} a WHERE a.id >= $1 ORDER BY a.id LIMIT $2) a
