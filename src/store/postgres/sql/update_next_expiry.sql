UPDATE {accounts} a SET next_expiry = w.next_expiry
FROM unnest($1::text[], $2::timestamptz[]) w (id, next_expiry)
WHERE a.id = w.id
