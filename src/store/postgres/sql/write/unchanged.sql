-- The version of an account without changes is only compared.
UNION ALL
SELECT w.place FROM given w
CROSS JOIN LATERAL (SELECT a.id FROM {accounts} a WHERE a.id = w.id AND a.version = {version}[w.place] OFFSET 0) a
WHERE {at}[w.place] IS NULL
