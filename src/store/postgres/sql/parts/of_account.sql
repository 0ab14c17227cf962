a.id, a.limit_micros, a.period, a.created_at, a.spent, a.held, a.since, a.version, a.changed_at, a.next_expiry, a.last_entry
