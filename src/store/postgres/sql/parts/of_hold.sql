h.id, h.account_id, h.key_id, h.path, h.amount, h.created_at, h.expires_at, h.on_expiry, h.labels::text, h.reference, h.state
