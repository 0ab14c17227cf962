-- The head of the write: finds the accounts that have the expected version, and updates their rows.
--
-- Accounts are locked, and then found by their place. An account that another transaction has locked conflicts. A row
-- that has changed since the statement began has another version anyway. An account conflicts if the row of one of its
-- keys has changed. All accounts conflict in another incarnation of the server than the expected one. All conflict if
-- the decision is older than a few seconds by the server's clock. The process was then stopped, or its machine was
-- suspended, in between.
--
-- The conflicted accounts are found once, by (place IN (..)) IS NOT TRUE, a look-up in a hash table. A plain IN would
-- become a join, and scan all accounts for each row. Rows are filtered by the conflicted accounts, an array that is
-- mostly empty.
WITH changed_keys AS (
    SELECT {key_account}[w.i] AS account FROM (SELECT generate_subscripts({key}, 1) AS i OFFSET 0) w
    WHERE (SELECT k.xmin FROM {keys} k WHERE k.{k.id} = {key}[w.i]) IS DISTINCT FROM {key_version}[w.i]
), given AS (
    SELECT w.* FROM (
        SELECT generate_subscripts({account}, 1) AS place, unnest({account}) COLLATE "C" AS id OFFSET 0
    ) w WHERE w.place <> ALL (ARRAY(SELECT account FROM changed_keys)) AND coalesce({incarnation} = {server_incarnation}, true)
        AND coalesce({decided_at} BETWEEN clock_timestamp() - interval '3 s' AND clock_timestamp() + interval '3 s', true)
), locked AS (
    SELECT w.place, a.tid FROM given w CROSS JOIN LATERAL (
        SELECT a.ctid AS tid FROM {accounts} a
        WHERE a.id = w.id AND a.version = {version}[w.place] FOR NO KEY UPDATE SKIP LOCKED
    ) a WHERE {at}[w.place] IS NOT NULL
), applied AS (
    UPDATE {accounts} a SET version = a.version + {step}, changed_at = {at}[w.place], spent = {spent}[w.place],
        held = {held}[w.place], since = {since}[w.place],{more_spent} next_expiry = nullif({next_expiry}[w.place], 'infinity'),
        last_entry = {last_entry}[w.place]
    FROM locked w WHERE a.ctid = w.tid AND a.version = {version}[w.place] RETURNING w.place
), conflicted AS MATERIALIZED (
    SELECT w.place FROM (SELECT generate_subscripts({account}, 1) AS place OFFSET 0) w
    WHERE (w.place IN (
        SELECT place FROM applied
        {unchanged}
    )) IS NOT TRUE
)
