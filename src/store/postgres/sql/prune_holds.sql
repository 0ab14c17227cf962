-- Deletes the ended holds among the next ones. Ids are in the order of time. A hold that was charged at its expiry stays
-- as long as the entry of that charge, which a late settle takes back. Returns the last id, how many are old, and how
-- many were deleted.
WITH seen AS MATERIALIZED (
    SELECT h.id, h.created_at, h.state FROM {holds} h WHERE h.id > $1 ORDER BY h.id LIMIT $3
), deleted AS (
    DELETE FROM {holds} h USING (
        SELECT s.id FROM seen s
        WHERE s.created_at < $2
            AND (s.state = 'ended' OR s.state = 'charged' AND NOT EXISTS (SELECT FROM {entries} e WHERE e.id = s.id))
        OFFSET 0
    ) s
    WHERE h.id = s.id RETURNING h.id
)
SELECT (SELECT s.id FROM seen s ORDER BY s.id DESC LIMIT 1), (SELECT count(*) FROM seen s WHERE s.created_at < $2),
    (SELECT count(*) FROM deleted)
