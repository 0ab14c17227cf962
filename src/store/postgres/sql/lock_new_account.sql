-- A process makes an account's row alone.
SELECT pg_advisory_xact_lock(hashtextextended($1, 6004215)), {server_time}
