-- An account without a row may still have holds and entries.
(SELECT min(h.expires_at) FROM {holds} h WHERE h.account_id = $1 AND h.state = 'live'),
(SELECT coalesce(max(e.seq), -9223372036854775808) FROM {entries} e WHERE e.account_id = $1)
