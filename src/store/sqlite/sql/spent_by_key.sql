-- The charges of the key ?1 and its descendants in the account ?5, with `seq` from ?3 to ?4.
WITH RECURSIVE family (id) AS (
    SELECT ?1 UNION SELECT k.id FROM family f CROSS JOIN agent_keys k ON k.parent_id = f.id
)
SELECT coalesce(sum(s.high), 0), coalesce(sum(s.low), 0)
FROM (
    SELECT e.amount / 4294967296 AS high, e.amount % 4294967296 AS low
    FROM (
        SELECT e.amount, e.counts_at FROM family f
        CROSS JOIN agentkey_entries_of_key i ON i.key_id = f.id AND i.seq BETWEEN ?3 AND ?4
        CROSS JOIN agentkey_entries e
            ON e.number = i.number AND e.key_id = i.key_id AND e.seq = i.seq AND e.account_id = ?5
        UNION ALL
        SELECT e.amount, e.counts_at FROM agentkey_entries e
        WHERE e.number > (SELECT min(last) FROM agentkey_index_parts) AND e.seq BETWEEN ?3 AND ?4
            AND e.number > (SELECT p.last FROM agentkey_index_parts p WHERE p.part = e.key_id & 15)
            AND e.account_id = ?5 AND e.key_id IN (SELECT id FROM family)
    ) e
    WHERE e.counts_at >= ?2
    UNION ALL
    SELECT s.amount_high + s.adjusted_high, s.amount_low + s.adjusted_low
    FROM family f CROSS JOIN agentkey_rollups s ON s.key_id = f.id AND s.counts_at >= ?2
    WHERE s.account_id = ?5
) s
