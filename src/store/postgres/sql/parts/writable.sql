-- Fails on a standby and on a read-only server, whatever else the statement finds: only a server that takes changes
-- knows what is in force. In a writable transaction it sets the mode that the transaction began with, so it changes
-- nothing.
(SELECT set_config('transaction_read_only', 'off', true)) = 'off'
