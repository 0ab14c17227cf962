-- A page of events of an account, or of a key or a subtree in it.
SELECT e.seq, e.at, e.account_id, e.key_id, e.key_name, e.lineage, e.delegated_by, e.kind, e.actor, e.request_id, e.route,
    e.count, e.detail
FROM agentkey_events e
WHERE e.account_id = ?1 AND {owner} AND e.seq > ?3 AND e.at >= ?4 AND e.at < ?5
    AND (?6 IS NULL OR e.kind IN (SELECT j.value FROM json_each(?6) j))
ORDER BY e.seq LIMIT ?7
