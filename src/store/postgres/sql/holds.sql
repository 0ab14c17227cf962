SELECT {of_hold}
FROM unnest($1::uuid[]) w (id)
CROSS JOIN LATERAL (SELECT * FROM {holds} h WHERE h.id = w.id OFFSET 0) h
