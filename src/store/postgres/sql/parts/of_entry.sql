e.id, e.account_id, e.key_id, e.kind, e.amount, e.at, e.counts_at, e.refunds, e.labels::text, e.reference
