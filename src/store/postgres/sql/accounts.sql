SELECT {of_account}, {server_time} FROM {accounts} a WHERE a.id > $1 ORDER BY a.id LIMIT $2
