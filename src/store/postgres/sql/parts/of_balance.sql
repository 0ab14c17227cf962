b.account_id, b.period, b.spent, b.held, b.since, b.more_spent::text, b.anchor
