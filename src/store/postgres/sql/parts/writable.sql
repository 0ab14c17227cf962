-- An error on a standby and on a server that is read-only, whatever else the statement finds: what is in force is known only
-- where it is changed. It asks for what the transaction has, as of when it began.
(SELECT set_config('transaction_read_only', 'off', true)) = 'off'
