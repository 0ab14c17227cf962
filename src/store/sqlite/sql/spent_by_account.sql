SELECT coalesce(sum(e.high), 0), coalesce(sum(e.low), 0) FROM (
    SELECT e.amount / 4294967296 AS high, e.amount % 4294967296 AS low FROM ({entries}) e
    UNION ALL
    SELECT s.amount_high + s.adjusted_high, s.amount_low + s.adjusted_low FROM agentkey_rollups s
    WHERE s.account_id = ?1 AND s.counts_at >= ?5
) e
