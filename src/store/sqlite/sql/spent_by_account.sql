SELECT coalesce(sum(e.amount / 4294967296), 0), coalesce(sum(e.amount % 4294967296), 0)
FROM ({entries}) e
