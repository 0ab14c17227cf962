-- Revalidates cached lineages, as in revalidate.sql, and takes from their rate limits.
SELECT w.id, NULL::text, NULL::int8, NULL::int4[], NULL::int8[], NULL::int8, {server_time}
FROM unnest($1::int8[], $2::int4[]) w (id, version)
LEFT JOIN LATERAL (SELECT k.xmin AS version FROM {keys} k WHERE k.{k.id} = w.id OFFSET 0) k ON true
WHERE k.version IS DISTINCT FROM w.version AND {writable}
UNION ALL
SELECT NULL, a.id, a.version, NULL, NULL, NULL, clock_timestamp()
FROM unnest($3::text[]) w (id)
CROSS JOIN LATERAL (SELECT * FROM {accounts} a WHERE a.id = w.id OFFSET 0) a
WHERE {server_incarnation} = $4
UNION ALL
SELECT NULL, NULL, NULL, t.granted, t.used, t.taken_at, clock_timestamp()
FROM {take_rates}($5, $6, $7, $8, $9, $10, $11) t WHERE {writable}
