-- Of a session that is kept: what its transactions are, and which backend of which incarnation of the server it is in.
, set_config('default_transaction_isolation', 'read committed', false),
set_config('default_transaction_read_only', 'off', false),
pg_backend_pid(), pg_postmaster_start_time()
