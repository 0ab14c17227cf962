-- Lets one transaction at a time make an account's row.
SELECT pg_advisory_xact_lock(hashtextextended($1, 6004215)), {server_time}
