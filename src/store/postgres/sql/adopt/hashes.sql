SELECT count(*), count(*) FILTER (WHERE k.{hash}::text COLLATE "C" ~ '^[0-9a-f]{64}$'),
    count(*) FILTER (WHERE k.{hash}::text COLLATE "C" ~ '^[0-9A-Za-z+/_-]{43}=?$')
FROM {keys} k
