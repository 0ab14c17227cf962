-- The server ends a connection that acknowledges nothing for four seconds. On a Unix socket these settings have no
-- effect.
, set_config('tcp_keepalives_idle', '1', {local}),
set_config('tcp_keepalives_interval', '1', {local}),
set_config('tcp_keepalives_count', '3', {local}),
set_config('tcp_user_timeout', '4000', {local})
