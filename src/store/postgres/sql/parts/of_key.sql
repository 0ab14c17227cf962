k.{k.id}::int8 AS id, k.{k.account}::text COLLATE "C" AS account, k.{k.parent}::int8 AS parent,
k.{k.name}::text AS name, k.{k.prefix}::text AS prefix, k.{k.start}::text AS start,
k.{k.scopes}::text[] AS scopes, k.{k.limit}::int8 AS limit_amount, k.{k.period}::text AS period,
k.{k.more_limits}::text AS more_limits, k.{k.rate_limit}::text AS rate_limit,
k.{k.allowed_cidrs}::text[] AS allowed_cidrs,
k.{k.created_at} AS created_at, k.{k.expires_at} AS expires_at, {disabled_at} AS disabled_at,
k.{k.revoked_at} AS revoked_at, k.{k.revoked_reason}::text AS revoked_reason, k.{k.delegated_by}::text AS delegated_by,
k.{k.metadata}::text AS metadata, k.{k.issuer}::text AS issuer, k.{k.sub}::text AS sub, k.xmin::text AS stamp
