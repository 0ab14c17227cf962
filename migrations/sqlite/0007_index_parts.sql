-- The index by account has parts of its own, those of accounts, so that it is written where its entries are near one another.
-- Parts 0 to 15 are those of the index by key, `key_id & 15`, and 16 to 31 those of the index by account, `16 + (account_part & 15)`.
ALTER TABLE agentkey_entries ADD COLUMN account_part INTEGER NOT NULL DEFAULT 0;
INSERT OR IGNORE INTO agentkey_entries_of_account (account_id, seq, number)
SELECT account_id, seq, number FROM agentkey_entries
WHERE number > (SELECT min(last) FROM agentkey_indexed) ORDER BY account_id, seq;
INSERT OR IGNORE INTO agentkey_entries_of_key (key_id, seq, number)
SELECT key_id, seq, number FROM agentkey_entries
WHERE number > (SELECT min(last) FROM agentkey_indexed) ORDER BY key_id, seq;
CREATE TABLE agentkey_index_parts (
    part INTEGER PRIMARY KEY,
    last INTEGER NOT NULL,
    due  INTEGER NOT NULL
) STRICT;
WITH RECURSIVE parts (part) AS (SELECT 0 UNION ALL SELECT part + 1 FROM parts WHERE part < 31)
INSERT INTO agentkey_index_parts (part, last, due)
SELECT part, n.last, n.last FROM parts CROSS JOIN
    (SELECT max(max(last), coalesce((SELECT max(number) FROM agentkey_entries), 0)) AS last FROM agentkey_indexed) n;
DROP TABLE agentkey_indexed;
-- A process that knows of other parts must not go on, and not begin what it could not end: it reads this column before anything.
ALTER TABLE agentkey_ledger RENAME COLUMN version TO state;
