-- How many descendants of a key are not revoked.
WITH RECURSIVE family (id) AS (
    SELECT k.id FROM agent_keys k WHERE k.parent_id = ?1
    UNION SELECT c.id FROM family f CROSS JOIN agent_keys c ON c.parent_id = f.id
)
SELECT count(*) FROM family f CROSS JOIN agent_keys k ON k.id = f.id WHERE k.revoked_at IS NULL
