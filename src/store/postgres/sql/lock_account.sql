SELECT a.id, {server_time} FROM (SELECT a.id FROM {accounts} a WHERE a.id = $1 FOR NO KEY UPDATE) a
