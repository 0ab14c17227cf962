SELECT {of_hold} FROM {holds} h WHERE h.state = 'live' ORDER BY h.created_at, h.id LIMIT $1
