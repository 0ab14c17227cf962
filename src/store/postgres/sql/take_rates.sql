-- Takes from rate limits that all instances share.
SELECT t.granted, t.used, t.taken_at, {server_time} FROM {take_rates}($1, $2, $3, $4, $5, $6, $7) t WHERE {writable}
