SELECT w.id,
    (SELECT min(h.expires_at) FROM {holds} h WHERE h.account_id = w.id AND h.state = 'live' AND h.expires_at > w.now)
FROM unnest($1::text[], $2::timestamptz[]) w (id, now)
