-- The live holds of the account ?1, or those of the key ?2 and its descendants.
SELECT coalesce(sum(h.amount / 4294967296), 0), coalesce(sum(h.amount % 4294967296), 0)
FROM agentkey_holds h
WHERE h.account_id = ?1 AND h.state = 'live'
    AND (?2 IS NULL OR EXISTS (SELECT 1 FROM json_each(h.path) p WHERE p.value = ?2))
