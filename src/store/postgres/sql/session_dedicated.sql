-- For a dedicated session: the defaults of its transactions, and its backend with the incarnation of the server.
, set_config('default_transaction_isolation', 'read committed', false),
set_config('default_transaction_read_only', 'off', false),
pg_backend_pid(), pg_postmaster_start_time()
