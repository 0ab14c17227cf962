SELECT i.indkey[0], i.indisunique AND i.indimmediate AND i.indnkeyatts = 1, i.indpred IS NOT NULL
FROM pg_catalog.pg_index i
WHERE i.indrelid = ($1::int8)::oid AND i.indisvalid AND i.indkey[0] > 0
