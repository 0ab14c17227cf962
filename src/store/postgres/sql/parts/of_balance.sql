b.account_id, b.period, b.spent, b.held, b.since, b.anchor
