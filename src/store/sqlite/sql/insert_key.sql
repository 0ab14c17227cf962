INSERT INTO agent_keys
    (account_id, parent_id, name, prefix, start, key_hash, scopes, limit_micros, period, more_limits, created_at, expires_at,
    delegated_by, metadata, disabled_at, rate_limit, allowed_cidrs, issuer, sub)
VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19)
