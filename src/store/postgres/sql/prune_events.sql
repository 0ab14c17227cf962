-- Deletes the old events among the next ones. Returns the last position, how many are old, and how many were deleted.
WITH seen AS MATERIALIZED (
    SELECT e.seq, e.at FROM {events} e WHERE e.seq > $1 ORDER BY e.seq LIMIT $3
), deleted AS (
    DELETE FROM {events} e USING (SELECT s.seq FROM seen s WHERE s.at < $2 OFFSET 0) s
    WHERE e.seq = s.seq RETURNING e.seq
)
SELECT (SELECT max(s.seq) FROM seen s), (SELECT count(*) FROM seen s WHERE s.at < $2), (SELECT count(*) FROM deleted)
