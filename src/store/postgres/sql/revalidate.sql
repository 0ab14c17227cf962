-- The keys whose rows have another version than given, and the versions of the accounts. There are no account versions
-- in another incarnation.
SELECT w.id, NULL::text, NULL::int8, {server_time}
FROM unnest($1::int8[], $2::int4[]) w (id, version)
LEFT JOIN LATERAL (SELECT k.xmin AS version FROM {keys} k WHERE k.{k.id} = w.id OFFSET 0) k ON true
WHERE k.version IS DISTINCT FROM w.version AND {writable}
UNION ALL
SELECT NULL, a.id, a.version, clock_timestamp()
FROM unnest($3::text[]) w (id)
CROSS JOIN LATERAL (SELECT * FROM {accounts} a WHERE a.id = w.id OFFSET 0) a
WHERE {server_incarnation} = $4
