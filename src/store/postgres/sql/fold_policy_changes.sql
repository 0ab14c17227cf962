-- Folds committed rows into one with the same sum. Uncommitted rows are not visible, and stay.
WITH folded AS (DELETE FROM {policy_changes} RETURNING step)
INSERT INTO {policy_changes} (step)
SELECT (sum(f.step) % 9223372036854775807)::int8 FROM folded f HAVING count(*) > 0
