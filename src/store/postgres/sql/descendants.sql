-- How many descendants of a key are not revoked.
WITH RECURSIVE family (id) AS (
    SELECT k.{k.id}::int8 FROM {keys} k WHERE k.{k.parent} = $1
    UNION SELECT c.{k.id}::int8 FROM family f JOIN {keys} c ON c.{k.parent} = f.id
)
SELECT count(*) FROM family f JOIN {keys} k ON k.{k.id} = f.id WHERE k.{k.revoked_at} IS NULL
