-- From the keys found first up to their roots. No lineage is longer than this depth, whatever the rules say.
UNION ALL
SELECT c.place, c.depth + 1, NULL::timestamptz, k.*
FROM chain c
CROSS JOIN LATERAL (SELECT {of_key} FROM {keys} k WHERE k.{k.id} = c.parent OFFSET 0) k
WHERE c.parent IS NOT NULL AND c.depth < {max_depth}
