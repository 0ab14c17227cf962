-- Entries, and what refunds gave back of each. While one is read here, no run that prunes takes it away.
SELECT {of_entry}, coalesce((SELECT -sum(r.amount) FROM {entries} r WHERE r.refunds = e.id), 0)::int8
FROM unnest($1::uuid[]) w (id)
CROSS JOIN LATERAL (SELECT * FROM {entries} e WHERE e.id = w.id OFFSET 0 FOR KEY SHARE) e
