INSERT INTO agentkey_first_seen AS c (key_hash, owner, until) VALUES (?1, ?2, ?3)
ON CONFLICT (key_hash) DO UPDATE SET owner = excluded.owner, until = excluded.until
WHERE c.owner = excluded.owner OR c.until <= ?4
