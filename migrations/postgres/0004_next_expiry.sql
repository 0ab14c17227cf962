-- Rows of accounts that were made anew beside live holds did not know of those, and the sweep goes by what they know.
UPDATE {accounts} a SET next_expiry = h.next, version = a.version + 1
FROM (SELECT account_id, min(expires_at) AS next FROM {holds} WHERE state = 'live' GROUP BY account_id) h
WHERE a.id = h.account_id AND a.next_expiry IS DISTINCT FROM least(a.next_expiry, h.next);
