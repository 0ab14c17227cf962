SELECT a.attname::text, a.attnum, coalesce(b.typname, t.typname)::text, format_type(a.atttypid, a.atttypmod),
    CASE WHEN t.typtype = 'd' THEN t.typtypmod ELSE a.atttypmod END, a.attgenerated <> '',
    coalesce(NOT l.collisdeterministic, false)
FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_type t ON t.oid = a.atttypid
LEFT JOIN pg_catalog.pg_type b ON b.oid = nullif(t.typbasetype, 0)
LEFT JOIN pg_catalog.pg_collation l ON l.oid = a.attcollation
WHERE a.attrelid = ($1::int8)::oid AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum
