-- A hold that was charged at its expiry stays as long as the entry of that charge, which a late settle takes back.
DELETE FROM agentkey_holds
WHERE id > ?1 AND id <= ?2 AND created_at < ?3
    AND (state = 'ended' OR state = 'charged' AND NOT EXISTS (SELECT 1 FROM agentkey_entries e WHERE e.id = agentkey_holds.id))
