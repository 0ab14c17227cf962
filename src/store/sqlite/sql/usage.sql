-- Each sum is in two halves, because SQLite fails if a sum overflows.
SELECT {group}, {subgroup},
    coalesce(sum(e.amount / 4294967296) FILTER (WHERE e.kind <> 'adjust'), 0),
    coalesce(sum(e.amount % 4294967296) FILTER (WHERE e.kind <> 'adjust'), 0),
    count(*) FILTER (WHERE e.kind NOT IN ('refund', 'adjust'))
        - count(DISTINCT e.refunds) FILTER (WHERE (
            SELECT o.amount > 0 AND o.amount <= (SELECT -sum(r.amount) FROM agentkey_entries r WHERE r.refunds = o.id)
            FROM agentkey_entries o WHERE o.id = e.refunds
        )),
    coalesce(sum(e.amount / 4294967296) FILTER (WHERE e.kind = 'adjust'), 0),
    coalesce(sum(e.amount % 4294967296) FILTER (WHERE e.kind = 'adjust'), 0)
FROM (
    {entries}
    -- A refund counts at the time of the refunded entry. No other entry counts at another time than its own.
    UNION ALL
    SELECT e.seq, e.id, e.account_id, e.key_id, e.kind, e.amount, e.at, e.counts_at, e.refunds, e.labels, e.reference
    FROM agentkey_entries e
    WHERE e.account_id = ?1 AND {key} AND e.refunds IS NOT NULL AND e.counts_at >= ?5 AND e.counts_at < ?6
) e
GROUP BY 1, 2
UNION ALL
SELECT {group}, {subgroup}, sum(e.amount_high), sum(e.amount_low), sum(e.charges), sum(e.adjusted_high), sum(e.adjusted_low)
FROM agentkey_rollups e
WHERE e.account_id = ?1 AND {key} AND e.counts_at >= ?5 AND e.counts_at < ?6
GROUP BY 1, 2
