a.id, a.limit_micros, a.period, a.more_limits::text, a.created_at, a.spent, a.held, a.since, a.more_spent::text,
a.version, a.changed_at, a.next_expiry, a.last_entry
