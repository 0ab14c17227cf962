-- A page of entries, of an account or of one key ({owner}). `seq` follows `at`, so a lower bound in time is a lower
-- bound in the order. At the upper end `seq` may be a little ahead.
SELECT e.seq, {of_entry}, {delegator}
FROM {entries} e
WHERE {owner} AND e.seq >= $3 AND e.seq < $4 AND e.at >= $5 AND e.at < $6 AND e.seq > $7
ORDER BY e.seq LIMIT $8
