SELECT s.kid, s.algorithm, s.secret, s.created_at FROM {signing_keys} s ORDER BY s.created_at
