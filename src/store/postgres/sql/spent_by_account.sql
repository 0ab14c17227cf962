SELECT coalesce(sum(s.high), 0)::int8, coalesce(sum(s.low), 0)::int8 FROM (
    SELECT e.amount >> 32 AS high, e.amount & 4294967295 AS low
    FROM {entries} e WHERE e.account_id = $1 AND e.seq >= $2 AND e.counts_at >= $3
    UNION ALL
    SELECT r.amount_high + r.adjusted_high, r.amount_low + r.adjusted_low
    FROM {rollups} r WHERE r.account_id = $1 AND r.counts_at >= $3
) s
