-- A page of events, of an account or of one key ({owner}).
SELECT e.seq, e.at, e.account_id, e.key_id, e.key_name, e.lineage, e.delegated_by, e.kind, e.actor::text, e.request_id, e.route,
    e.count, e.detail::text
FROM {events} e
WHERE {owner} AND e.seq > $3 AND e.at >= $4 AND e.at < $5 AND ($6::text[] IS NULL OR e.kind = ANY ($6))
ORDER BY e.seq LIMIT $7
