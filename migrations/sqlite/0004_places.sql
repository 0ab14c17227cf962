-- Entries whose indexes lag behind, and what an account knows of its own: `seq` is the order of the entries within an account,
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

-- `number` is the order in which they were written. It is given by the writer, and never twice.
CREATE TABLE agentkey_entries (
    number     INTEGER PRIMARY KEY,
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
    reference  TEXT
) STRICT;
INSERT INTO agentkey_entries (id, seq, account_id, key_id, kind, amount, at, counts_at, refunds, labels, reference)
SELECT id, place, account_id, key_id, kind, amount, at, counts_at, refunds, labels, reference
FROM agentkey_entries_before ORDER BY place;
DROP TABLE agentkey_entries_before;
CREATE INDEX agentkey_entries_refunds ON agentkey_entries (refunds) WHERE refunds IS NOT NULL;
-- A refund counts earlier than it was written; nothing else does, and nothing counts later.
CREATE INDEX agentkey_entries_refunds_window ON agentkey_entries (account_id, counts_at) WHERE refunds IS NOT NULL;

-- The indexes of all entries whose number is at most `last` for the part of the keys, `key_id & 7`, that they are of.
-- Those behind it are indexed together, when the number `due` has been given.
CREATE TABLE agentkey_entries_of_account (
    account_id TEXT    NOT NULL,
    seq        INTEGER NOT NULL,
    number     INTEGER NOT NULL,
    PRIMARY KEY (account_id, seq, number)
) STRICT, WITHOUT ROWID;
INSERT INTO agentkey_entries_of_account SELECT account_id, seq, number FROM agentkey_entries ORDER BY account_id, seq;
CREATE TABLE agentkey_entries_of_key (
    key_id     INTEGER NOT NULL,
    seq        INTEGER NOT NULL,
    number     INTEGER NOT NULL,
    PRIMARY KEY (key_id, seq, number)
) STRICT, WITHOUT ROWID;
INSERT INTO agentkey_entries_of_key SELECT key_id, seq, number FROM agentkey_entries ORDER BY key_id, seq;
CREATE TABLE agentkey_indexed (
    part INTEGER PRIMARY KEY,
    last INTEGER NOT NULL,
    due  INTEGER NOT NULL
) STRICT;
INSERT INTO agentkey_indexed (part, last, due)
SELECT value, last, last FROM json_each('[0, 1, 2, 3, 4, 5, 6, 7]'),
    (SELECT coalesce(max(number), 0) AS last FROM agentkey_entries);

UPDATE agentkey_accounts SET
    last_entry = coalesce((SELECT max(e.seq) FROM agentkey_entries e WHERE e.account_id = agentkey_accounts.id), last_entry),
    next_expiry = (SELECT min(h.expires_at) FROM agentkey_holds h
        WHERE h.account_id = agentkey_accounts.id AND h.state = 'live');
