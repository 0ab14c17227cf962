-- Counts the entries written before $2, the holds made before $3 and the events before $4.
SELECT (
    SELECT coalesce(sum(n.count), 0)::int8 FROM {accounts} a
    CROSS JOIN LATERAL (SELECT count(*) FROM {entries} e WHERE e.account_id = a.id AND e.seq < $1 AND e.at < $2 OFFSET 0) n
), (
    SELECT count(*) FROM {holds} h WHERE h.created_at < $3
), (
    SELECT count(*) FROM {events} e WHERE e.at < $4
)
