INSERT INTO {keys} AS k (
    {k.account}, {k.parent}, {k.name}, {k.prefix}, {k.start}, {k.hash}, {k.scopes}, {k.limit}, {k.period}, {k.created_at}, {k.expires_at},
    {k.more_limits}, {k.delegated_by}, {k.metadata}, {k.disabled_at}, {k.rate_limit}, {k.allowed_cidrs}, {k.issuer}, {k.sub}
)
VALUES (($1::text)::{account_type}, $2, $3, $4, $5, $6, $7, $8, $9, $10::timestamptz{zone.created_at}, $11::timestamptz{zone.expires_at},
    $12::jsonb, ($13::text)::{delegator_type}, $14::jsonb, $15::timestamptz{zone.disabled_at},
    $16::jsonb, $17::text[]::cidr[], $18, $19)
RETURNING k.{k.id}::int8
