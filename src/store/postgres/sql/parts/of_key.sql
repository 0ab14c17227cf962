k.{k.id}::int8 AS id, k.{k.account}::text COLLATE "C" AS account, k.{k.parent}::int8 AS parent,
k.{k.name}::text AS name, k.{k.prefix}::text AS prefix, k.{k.start}::text AS start,
k.{k.scopes}::text[] AS scopes, k.{k.limit}::int8 AS limit_amount, k.{k.period}::text AS period,
k.{k.created_at} AS created_at, k.{k.expires_at} AS expires_at, k.{k.revoked_at} AS revoked_at, k.xmin::text AS stamp
