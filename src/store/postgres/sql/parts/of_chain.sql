c.place, c.depth, c.retires_at, {server_incarnation},
c.id, c.account, c.parent, c.name, c.prefix, c.start, c.scopes, c.limit_amount, c.period, c.created_at, c.expires_at, c.revoked_at, c.stamp,
{of_balance}, {of_account}, {server_time}
FROM chain c {with_money}
