-- Rows of accounts that were made anew beside live holds and entries did not know of those: but the sweep goes by
-- `next_expiry`, and no two entries of an account stand in one place.
UPDATE {accounts} a SET next_expiry = h.next, version = a.version + 1
FROM (SELECT account_id, min(expires_at) AS next FROM {holds} WHERE state = 'live' GROUP BY account_id) h
WHERE a.id = h.account_id AND a.next_expiry IS DISTINCT FROM least(a.next_expiry, h.next);

UPDATE {accounts} a SET last_entry = e.last, version = a.version + 1
FROM {accounts} b CROSS JOIN LATERAL (SELECT max(e.seq) AS last FROM {entries} e WHERE e.account_id = b.id) e
WHERE a.id = b.id AND b.last_entry = -9223372036854775808 AND e.last IS NOT NULL;
