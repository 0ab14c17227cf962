-- Entries of the key ?2 in the account ?1, with `seq` from ?3 to ?4: the indexed ones, and those that are not indexed
-- yet.
SELECT i.seq, e.id, e.account_id, e.key_id, e.kind, e.amount, e.at, e.counts_at, e.refunds, e.labels, e.reference
FROM agentkey_entries_of_key i
CROSS JOIN agentkey_entries e ON e.number = i.number AND e.seq = i.seq AND e.key_id = i.key_id
WHERE i.key_id = ?2 AND e.account_id = ?1 AND i.seq BETWEEN ?3 AND ?4 AND {condition}
UNION ALL
SELECT e.seq, e.id, e.account_id, e.key_id, e.kind, e.amount, e.at, e.counts_at, e.refunds, e.labels, e.reference
FROM agentkey_entries e
WHERE e.number > (SELECT p.last FROM agentkey_index_parts p WHERE p.part = ?2 & 15)
    AND e.key_id = ?2 AND e.account_id = ?1 AND e.seq BETWEEN ?3 AND ?4 AND {condition}
