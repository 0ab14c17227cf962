-- The sum of what is committed stays. What is not committed yet is not seen, and stays too.
WITH folded AS (DELETE FROM {policy_changes} RETURNING step)
INSERT INTO {policy_changes} (step)
SELECT (sum(f.step) % 9223372036854775807)::int8 FROM folded f HAVING count(*) > 0
