-- Entries of the account ?1, with `seq` from ?3 to ?4: the indexed ones, and those that are not indexed yet.
SELECT i.seq, e.id, e.account_id, e.key_id, e.kind, e.amount, e.at, e.counts_at, e.refunds, e.labels, e.reference
FROM agentkey_entries_of_account i
CROSS JOIN agentkey_entries e ON e.number = i.number AND e.seq = i.seq AND e.account_id = i.account_id
WHERE i.account_id = ?1 AND ?2 IS NULL AND i.seq BETWEEN ?3 AND ?4 AND {condition}
UNION ALL
SELECT e.seq, e.id, e.account_id, e.key_id, e.kind, e.amount, e.at, e.counts_at, e.refunds, e.labels, e.reference
FROM agentkey_entries e
WHERE e.number > (SELECT min(last) FROM agentkey_index_parts) AND e.account_id = ?1 AND ?2 IS NULL
    AND e.number > (SELECT p.last FROM agentkey_index_parts p WHERE p.part = 16 + (e.account_part & 15))
    AND e.seq BETWEEN ?3 AND ?4 AND {condition}
