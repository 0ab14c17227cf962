SELECT {of_hold}
FROM unnest($1::text[], $2::timestamptz[]) w (id, now)
CROSS JOIN LATERAL (
    SELECT * FROM {holds} h WHERE h.account_id = w.id AND h.state = 'live' AND h.expires_at <= w.now OFFSET 0
) h
