-- The server ends a connection that acknowledges nothing for four seconds. A server on a Unix socket takes these and does nothing.
, set_config('tcp_keepalives_idle', '1', {local}),
set_config('tcp_keepalives_interval', '1', {local}),
set_config('tcp_keepalives_count', '3', {local}),
set_config('tcp_user_timeout', '4000', {local})
