-- A page of entries, of an account or of one key ({owner}). `seq` follows `at`, so bounds in time are bounds in the order too:
-- at least from below. From above it may have run a little ahead.
SELECT e.seq, {of_entry}
FROM {entries} e
WHERE {owner} AND e.seq >= $3 AND e.seq < $4 AND e.at >= $5 AND e.at < $6 AND e.seq > $7
ORDER BY e.seq LIMIT $8
