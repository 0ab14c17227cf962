-- The amount and the number of charges, and the adjustments, by group. A refund counts at the time of the refunded
-- entry. No other entry counts at another time than its own. Each sum is in two halves, which leave room for any number
-- of entries. Groups of entries and of roll-ups are added up by the reader: one statement reads both in one snapshot.
SELECT {group}, {subgroup},
    coalesce(sum(e.amount >> 32) FILTER (WHERE e.kind <> 'adjust'), 0)::int8,
    coalesce(sum(e.amount & 4294967295) FILTER (WHERE e.kind <> 'adjust'), 0)::int8,
    count(*) FILTER (WHERE e.kind NOT IN ('refund', 'adjust'))
        - count(DISTINCT e.refunds) FILTER (WHERE (
            SELECT o.amount > 0 AND o.amount <= (SELECT -sum(r.amount) FROM {entries} r WHERE r.refunds = o.id)
            FROM {entries} o WHERE o.id = e.refunds
        )),
    coalesce(sum(e.amount >> 32) FILTER (WHERE e.kind = 'adjust'), 0)::int8,
    coalesce(sum(e.amount & 4294967295) FILTER (WHERE e.kind = 'adjust'), 0)::int8
FROM (
    SELECT * FROM {entries} e WHERE {owner} AND e.refunds IS NULL
        AND e.seq >= $3 AND e.seq < $4 AND e.counts_at >= $5 AND e.counts_at < $6
    UNION ALL
    SELECT * FROM {entries} e WHERE {owner} AND e.refunds IS NOT NULL AND e.counts_at >= $5 AND e.counts_at < $6
) e
GROUP BY 1, 2
UNION ALL
SELECT {group}, {subgroup}, sum(e.amount_high)::int8, sum(e.amount_low)::int8, sum(e.charges)::int8,
    sum(e.adjusted_high)::int8, sum(e.adjusted_low)::int8
FROM {rollups} e
WHERE {owner} AND e.counts_at >= $5 AND e.counts_at < $6
GROUP BY 1, 2
