c.place, c.depth, c.retires_at, {server_incarnation},
c.id, c.account, c.parent, c.name, c.prefix, c.start, c.scopes, c.limit_amount, c.period, c.more_limits,
c.rate_limit, c.allowed_cidrs,
c.created_at, c.expires_at, c.disabled_at, c.revoked_at, c.revoked_reason, c.delegated_by, c.metadata, c.issuer, c.sub, c.stamp,
{of_balance}, {of_account}, {server_time}
FROM chain c {with_money}
