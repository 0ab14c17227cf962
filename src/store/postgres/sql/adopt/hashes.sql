SELECT count(*), count(*) FILTER (WHERE k.{k.hash}::text COLLATE "C" ~ '^[0-9a-f]{64}$'),
    count(*) FILTER (WHERE k.{k.account} IS NULL)
FROM {keys} k
