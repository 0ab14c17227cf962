SELECT {of_account}, {server_time}
FROM (SELECT w.id FROM unnest($1::text[]) w (id) ORDER BY w.id COLLATE "C") w
CROSS JOIN LATERAL (SELECT * FROM {accounts} a WHERE a.id = w.id FOR NO KEY UPDATE) a
