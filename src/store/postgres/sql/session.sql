-- The settings of a session, or of a transaction where {local} is true.
SELECT set_config('statement_timeout', '{statement_timeout}', {local}),
    set_config('lock_timeout', {lock_timeout}, {local}),
    -- Plans are made once and use indexes, whatever the statistics of a new table say.
    set_config('plan_cache_mode', 'force_generic_plan', {local}),
    set_config('enable_seqscan', 'off', {local}),
    set_config('enable_hashjoin', 'off', {local}),
    set_config('enable_mergejoin', 'off', {local}),
    set_config('jit', 'off', {local}),
    -- A commit always waits at least for a flush of the server's own log.
    set_config('synchronous_commit', CASE current_setting('synchronous_commit')
        WHEN 'off' THEN 'on' ELSE current_setting('synchronous_commit') END, {local}),
    -- The server ends a transaction whose next statement does not come for two seconds. This process was then stopped
    -- or cut off, and other instances wait for the rows that it locked.
    set_config('idle_in_transaction_session_timeout', '2000', {local})
