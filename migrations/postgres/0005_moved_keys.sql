-- Money that came and went in an account while the host had a key of it in another one left the key's balance there as
-- it was. Balances that may be so count no period from now on, and are counted anew when the key is next looked at in
-- that account: those of keys that were in several accounts, or that hold more or less than their live holds.
WITH live AS (
    SELECT h.account_id, k.key_id, sum(h.amount) AS held
    FROM {holds} h CROSS JOIN LATERAL (SELECT DISTINCT unnest(h.path)) k (key_id) WHERE h.state = 'live' GROUP BY 1, 2
), wrong AS (
    SELECT b.key_id, b.account_id FROM {balances} b
    LEFT JOIN live l ON l.key_id = b.key_id AND l.account_id = b.account_id
    WHERE b.held <> coalesce(l.held, 0)
        OR EXISTS (SELECT FROM {balances} o WHERE o.key_id = b.key_id AND o.account_id <> b.account_id)
), locked AS (
    SELECT a.id FROM {accounts} a WHERE a.id IN (SELECT account_id FROM wrong) ORDER BY a.id FOR UPDATE
), moved AS (
    UPDATE {accounts} a SET version = a.version + 1 FROM locked l WHERE a.id = l.id RETURNING a.id
)
UPDATE {balances} b SET period = '' FROM wrong w
WHERE b.key_id = w.key_id AND b.account_id = w.account_id AND w.account_id IN (SELECT id FROM moved);
