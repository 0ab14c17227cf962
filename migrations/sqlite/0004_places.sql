-- Entries with fewer indexes, and what an account knows of its own: `seq` is the order of the entries within an account,
-- the microseconds of `at` since 1970 times 256, or one more than the entry before, whichever is more. So one index
-- serves order and time. No live hold of an account runs out before `next_expiry`; `last_entry` is the place of its last
-- entry.
ALTER TABLE agentkey_accounts ADD COLUMN next_expiry INTEGER;
ALTER TABLE agentkey_accounts ADD COLUMN last_entry INTEGER NOT NULL DEFAULT -9223372036854775808;

-- Not renamed: views of the host's own go on naming the table that is there in the end.
CREATE TABLE agentkey_entries_before AS
SELECT number + max(place - number) OVER (PARTITION BY account_id ORDER BY number) AS place, number, id, account_id,
    key_id, kind, amount, at, counts_at, refunds, labels, reference
FROM (SELECT *, row_number() OVER (PARTITION BY account_id ORDER BY seq) AS number,
    max(min(at, 18014398509481984), -18014398509481984) * 256 AS place FROM agentkey_entries);
DROP TABLE agentkey_entries;

CREATE TABLE agentkey_entries (
    id         BLOB    NOT NULL UNIQUE CHECK (length(id) = 16),
    seq        INTEGER NOT NULL,
    account_id TEXT    NOT NULL,
    key_id     INTEGER NOT NULL,
    kind       TEXT    NOT NULL,
    amount     INTEGER NOT NULL,
    at         INTEGER NOT NULL,
    counts_at  INTEGER NOT NULL,
    refunds    BLOB,
    labels     TEXT    NOT NULL,
    reference  TEXT,
    UNIQUE (account_id, seq)
) STRICT;
INSERT INTO agentkey_entries (id, seq, account_id, key_id, kind, amount, at, counts_at, refunds, labels, reference)
SELECT id, place, account_id, key_id, kind, amount, at, counts_at, refunds, labels, reference
FROM agentkey_entries_before ORDER BY place;
DROP TABLE agentkey_entries_before;
CREATE INDEX agentkey_entries_key ON agentkey_entries (key_id, seq);
CREATE INDEX agentkey_entries_refunds ON agentkey_entries (refunds) WHERE refunds IS NOT NULL;
-- A refund counts earlier than it was written; nothing else does, and nothing counts later.
CREATE INDEX agentkey_entries_refunds_window ON agentkey_entries (account_id, counts_at) WHERE refunds IS NOT NULL;

UPDATE agentkey_accounts SET
    last_entry = coalesce((SELECT max(e.seq) FROM agentkey_entries e WHERE e.account_id = agentkey_accounts.id), last_entry),
    next_expiry = (SELECT min(h.expires_at) FROM agentkey_holds h
        WHERE h.account_id = agentkey_accounts.id AND h.state = 'live');
