ON CONFLICT (key_id, at, reason, coalesce(route, '')) WHERE reason IS NOT NULL DO UPDATE SET count = count + excluded.count
