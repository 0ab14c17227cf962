CASE WHEN {key_period} <> 'lifetime' AND isfinite({resets_at}) THEN {resets_at} END
