-- What was charged by group, how often, and what was adjusted. A refund counts earlier than it was written; nothing counts
-- later. Sums are in two halves, which leave room for any number of entries.
SELECT {group},
    coalesce(sum(e.amount >> 32) FILTER (WHERE e.kind <> 'adjust'), 0)::int8,
    coalesce(sum(e.amount & 4294967295) FILTER (WHERE e.kind <> 'adjust'), 0)::int8,
    count(*) FILTER (WHERE e.kind NOT IN ('refund', 'adjust')),
    coalesce(sum(e.amount >> 32) FILTER (WHERE e.kind = 'adjust'), 0)::int8,
    coalesce(sum(e.amount & 4294967295) FILTER (WHERE e.kind = 'adjust'), 0)::int8
FROM (
    SELECT * FROM {entries} e WHERE {owner} AND e.refunds IS NULL
        AND e.seq >= $3 AND e.seq < $4 AND e.counts_at >= $5 AND e.counts_at < $6
    UNION ALL
    SELECT * FROM {entries} e WHERE {owner} AND e.refunds IS NOT NULL AND e.counts_at >= $5 AND e.counts_at < $6
) e
GROUP BY 1
