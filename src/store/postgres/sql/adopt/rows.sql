SELECT count(*) FILTER (WHERE coalesce(k.{k.hash}::text COLLATE "C" !~ '^[0-9a-f]{64}$', true)),
    count(*) FILTER (WHERE k.{k.account} IS NULL)
FROM {keys} k
