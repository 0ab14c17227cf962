-- Instants are microseconds since the Unix epoch, money is micro-units.

-- Policy, read on every request. Only policy changes write it: a charge never touches this table. The application's own
-- SQL may write `name`, `scopes`, `limit_micros`, `period`, `more_limits`, `rate_limit`, `allowed_cidrs`, `expires_at`, `disabled_at`, `revoked_at`,
-- `revoked_reason`, `delegated_by` and `metadata`: see docs/guarantees.md.
CREATE TABLE agent_keys (
    id           INTEGER PRIMARY KEY AUTOINCREMENT,
    account_id   TEXT    NOT NULL CHECK (length(account_id) BETWEEN 1 AND 255 AND instr(account_id, char(0)) = 0
        AND account_id NOT GLOB '*[' || char(1, 45, 31, 127, 45, 159) || ']*'), -- no control characters
    parent_id    INTEGER,
    name         TEXT    NOT NULL DEFAULT '',
    prefix       TEXT    NOT NULL DEFAULT '',
    start        TEXT    NOT NULL DEFAULT '',
    key_hash     TEXT    NOT NULL UNIQUE, -- SHA-256 of the token, or the digest of the subject, lower-case hex
    issuer       TEXT,                    -- with `sub`, the identity of another issuer that the key is for
    sub          TEXT,
    scopes       TEXT,                    -- a JSON array; NULL is unrestricted, [] is none
    limit_micros INTEGER CHECK (limit_micros >= 0), -- NULL is unlimited
    period       TEXT    NOT NULL DEFAULT 'lifetime' CHECK (period IN ('lifetime', 'day', 'week', 'month', 'calendar_day', 'calendar_week', 'calendar_month')),
    more_limits  TEXT,                    -- a JSON object of other periods and their micro-units, such as {"day": 50000}
    -- {"requests": 100, "window_seconds": 60, "burst": 100, "in_flight": 4}: a rate, requests in flight, or both
    rate_limit   TEXT CHECK (json_valid(rate_limit) AND json_type(rate_limit) = 'object'),
    allowed_cidrs TEXT CHECK (json_valid(allowed_cidrs) AND json_type(allowed_cidrs) = 'array'), -- NULL is from anywhere
    created_at   INTEGER NOT NULL,
    expires_at   INTEGER,
    disabled_at  INTEGER,
    revoked_at   INTEGER,
    revoked_reason TEXT CHECK (length(revoked_reason) <= 255),
    delegated_by TEXT CHECK (length(delegated_by) BETWEEN 1 AND 255), -- the human on whose behalf the key acts
    metadata     TEXT CHECK (json_valid(metadata) AND json_type(metadata) = 'object' AND length(CAST(metadata AS BLOB)) <= 4096),
    CHECK ((issuer IS NULL) = (sub IS NULL))
) STRICT;
CREATE INDEX agent_keys_account ON agent_keys (account_id, id);
CREATE INDEX agent_keys_parent ON agent_keys (parent_id, id) WHERE parent_id IS NOT NULL;

-- A CHECK cannot look into an array.
CREATE TRIGGER agent_keys_scopes_of_new BEFORE INSERT ON agent_keys WHEN NEW.scopes IS NOT NULL
BEGIN
    SELECT RAISE(ABORT, 'agentkey: scopes is a JSON array of scope-tokens of 1 to 128 characters (RFC 6749, 3.3), or NULL')
    WHERE NOT json_valid(NEW.scopes) OR json_type(NEW.scopes) <> 'array' OR EXISTS (SELECT 1 FROM json_each(NEW.scopes) s
        WHERE s.type <> 'text' OR length(s.value) NOT BETWEEN 1 AND 128 OR instr(s.value, char(0)) > 0
        OR s.value GLOB '*[^]!#-Z[^-~]*');
END;
CREATE TRIGGER agent_keys_scopes_changed BEFORE UPDATE OF scopes ON agent_keys WHEN NEW.scopes IS NOT NULL
BEGIN
    SELECT RAISE(ABORT, 'agentkey: scopes is a JSON array of scope-tokens of 1 to 128 characters (RFC 6749, 3.3), or NULL')
    WHERE NOT json_valid(NEW.scopes) OR json_type(NEW.scopes) <> 'array' OR EXISTS (SELECT 1 FROM json_each(NEW.scopes) s
        WHERE s.type <> 'text' OR length(s.value) NOT BETWEEN 1 AND 128 OR instr(s.value, char(0)) > 0
        OR s.value GLOB '*[^]!#-Z[^-~]*');
END;

-- SQLite has no type for a range. A key whose ranges cannot be read may be used from nowhere.
CREATE TRIGGER agent_keys_rate_of_new BEFORE INSERT ON agent_keys WHEN NEW.rate_limit IS NOT NULL
BEGIN
    SELECT RAISE(ABORT, 'agentkey: rate_limit is a JSON object such as {"requests": 100, "window_seconds": 60}, with burst and in_flight where they are wanted')
    WHERE EXISTS (SELECT 1 FROM json_each(NEW.rate_limit) l WHERE l.type <> 'integer' OR l.value NOT BETWEEN 0 AND 1000000
            OR l.key NOT IN ('requests', 'window_seconds', 'burst', 'in_flight'))
        OR (NEW.rate_limit ->> 'requests' IS NULL) <> (NEW.rate_limit ->> 'window_seconds' IS NULL)
        OR coalesce(NEW.rate_limit ->> 'window_seconds', 1) NOT BETWEEN 1 AND 86400
        OR coalesce(NEW.rate_limit ->> 'burst' = 0 AND NEW.rate_limit ->> 'requests' > 0, 0)
        OR NEW.rate_limit ->> 'burst' IS NOT NULL AND NEW.rate_limit ->> 'requests' IS NULL
        OR coalesce(NEW.rate_limit ->> 'requests', NEW.rate_limit ->> 'in_flight') IS NULL;
END;
CREATE TRIGGER agent_keys_rate_changed BEFORE UPDATE OF rate_limit ON agent_keys WHEN NEW.rate_limit IS NOT NULL
BEGIN
    SELECT RAISE(ABORT, 'agentkey: rate_limit is a JSON object such as {"requests": 100, "window_seconds": 60}, with burst and in_flight where they are wanted')
    WHERE EXISTS (SELECT 1 FROM json_each(NEW.rate_limit) l WHERE l.type <> 'integer' OR l.value NOT BETWEEN 0 AND 1000000
            OR l.key NOT IN ('requests', 'window_seconds', 'burst', 'in_flight'))
        OR (NEW.rate_limit ->> 'requests' IS NULL) <> (NEW.rate_limit ->> 'window_seconds' IS NULL)
        OR coalesce(NEW.rate_limit ->> 'window_seconds', 1) NOT BETWEEN 1 AND 86400
        OR coalesce(NEW.rate_limit ->> 'burst' = 0 AND NEW.rate_limit ->> 'requests' > 0, 0)
        OR NEW.rate_limit ->> 'burst' IS NOT NULL AND NEW.rate_limit ->> 'requests' IS NULL
        OR coalesce(NEW.rate_limit ->> 'requests', NEW.rate_limit ->> 'in_flight') IS NULL;
END;

CREATE TRIGGER agent_keys_limits_of_new BEFORE INSERT ON agent_keys WHEN NEW.more_limits IS NOT NULL
BEGIN
    SELECT RAISE(ABORT, 'agentkey: more_limits is a JSON object of micro-units by period, such as {"day": 50000}; with the period of the key, each of day, week, month and lifetime occurs once')
    WHERE NOT json_valid(NEW.more_limits) OR json_type(NEW.more_limits) <> 'object'
        OR EXISTS (SELECT 1 FROM json_each(NEW.more_limits) l WHERE l.type <> 'integer' OR typeof(l.value) <> 'integer'
            OR instr(NEW.more_limits, '-') > 0 OR l.key NOT IN ('lifetime', 'day', 'week', 'month', 'calendar_day', 'calendar_week', 'calendar_month'))
        OR (SELECT count(*) <> count(DISTINCT unit) FROM (
            SELECT replace(l.key, 'calendar_', '') AS unit FROM json_each(NEW.more_limits) l
            UNION ALL SELECT replace(NEW.period, 'calendar_', '')));
END;
CREATE TRIGGER agent_keys_limits_changed BEFORE UPDATE OF more_limits, period ON agent_keys WHEN NEW.more_limits IS NOT NULL
BEGIN
    SELECT RAISE(ABORT, 'agentkey: more_limits is a JSON object of micro-units by period, such as {"day": 50000}; with the period of the key, each of day, week, month and lifetime occurs once')
    WHERE NOT json_valid(NEW.more_limits) OR json_type(NEW.more_limits) <> 'object'
        OR EXISTS (SELECT 1 FROM json_each(NEW.more_limits) l WHERE l.type <> 'integer' OR typeof(l.value) <> 'integer'
            OR instr(NEW.more_limits, '-') > 0 OR l.key NOT IN ('lifetime', 'day', 'week', 'month', 'calendar_day', 'calendar_week', 'calendar_month'))
        OR (SELECT count(*) <> count(DISTINCT unit) FROM (
            SELECT replace(l.key, 'calendar_', '') AS unit FROM json_each(NEW.more_limits) l
            UNION ALL SELECT replace(NEW.period, 'calendar_', '')));
END;

-- The account row is the lock and the version of an account's keys, holds and entries. `changed_at` is the instant of
-- its last change. No live hold of the account expires before `next_expiry`. `last_entry` is the `seq` of its last
-- entry.
CREATE TABLE agentkey_accounts (
    id           TEXT    PRIMARY KEY NOT NULL CHECK (length(id) BETWEEN 1 AND 255 AND instr(id, char(0)) = 0
        AND id NOT GLOB '*[' || char(1, 45, 31, 127, 45, 159) || ']*'),
    version      INTEGER NOT NULL,
    changed_at   INTEGER NOT NULL,
    limit_micros INTEGER CHECK (limit_micros >= 0),
    period       TEXT    NOT NULL CHECK (period IN ('lifetime', 'day', 'week', 'month', 'calendar_day', 'calendar_week', 'calendar_month')),
    more_limits  TEXT,
    created_at   INTEGER NOT NULL,
    spent        INTEGER NOT NULL,
    held         INTEGER NOT NULL CHECK (held >= 0),
    since        INTEGER NOT NULL,
    more_spent   TEXT, -- a JSON object of other periods, each with its micro-units and the start of its window
    next_expiry  INTEGER,
    last_entry   INTEGER NOT NULL DEFAULT -9223372036854775808
) STRICT;

-- Money of keys. A key without a row has spent nothing. `period` is the period that `spent` counts, and `more_spent` has
-- the other periods. If the application's own SQL gave the key another period, what was spent in it is counted from the
-- entries. Windows are counted from `anchor`, or from the creation of the key if it is NULL. There is no CHECK, because
-- every charge would test it.
CREATE TABLE agentkey_balances (
    key_id INTEGER PRIMARY KEY,
    period TEXT    NOT NULL,
    spent  INTEGER NOT NULL,
    held   INTEGER NOT NULL,
    since  INTEGER NOT NULL,
    more_spent TEXT,
    anchor INTEGER
) STRICT;

CREATE TRIGGER agent_keys_identity BEFORE UPDATE OF id, account_id, parent_id, issuer, sub ON agent_keys
WHEN OLD.id IS NOT NEW.id OR OLD.account_id IS NOT NEW.account_id OR OLD.parent_id IS NOT NEW.parent_id
    OR OLD.issuer IS NOT NEW.issuer OR OLD.sub IS NOT NEW.sub
BEGIN SELECT RAISE(ABORT, 'agentkey: the id, account, parent and subject of a key never change: revoke it and make another'); END;

CREATE TRIGGER agent_keys_with_money BEFORE DELETE ON agent_keys
WHEN EXISTS (SELECT 1 FROM agentkey_balances WHERE key_id = OLD.id)
BEGIN SELECT RAISE(ABORT, 'agentkey: this key has holds or entries: revoke it instead of deleting it'); END;

-- INSERT OR REPLACE deletes the other key and fires no trigger for it. Then the new key has a balance already.
CREATE TRIGGER agent_keys_replaced AFTER INSERT ON agent_keys
WHEN EXISTS (SELECT 1 FROM agentkey_balances WHERE key_id = NEW.id)
BEGIN SELECT RAISE(ABORT, 'agentkey: another key had this id, and holds or entries: update it instead of replacing it'); END;

-- Tokens that were rotated away and work until `retires_at`.
CREATE TABLE agentkey_retired_tokens (
    key_hash   TEXT    PRIMARY KEY NOT NULL,
    key_id     INTEGER NOT NULL,
    retires_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX agentkey_retired_tokens_key ON agentkey_retired_tokens (key_id);

CREATE TABLE agentkey_holds (
    id         BLOB    PRIMARY KEY NOT NULL CHECK (length(id) = 16),
    account_id TEXT    NOT NULL,
    key_id     INTEGER NOT NULL,
    path       TEXT    NOT NULL, -- a JSON array: the key and its ancestors
    amount     INTEGER NOT NULL,
    created_at INTEGER NOT NULL,
    expires_at INTEGER NOT NULL,
    on_expiry  TEXT    NOT NULL CHECK (on_expiry IN ('release', 'charge')),
    labels     TEXT    NOT NULL,
    reference  TEXT,
    state      TEXT    NOT NULL CHECK (state IN ('live', 'ended', 'charged'))
) STRICT, WITHOUT ROWID;
CREATE INDEX agentkey_holds_account ON agentkey_holds (account_id, expires_at) WHERE state = 'live';
CREATE INDEX agentkey_holds_expiry ON agentkey_holds (expires_at, account_id) WHERE state = 'live';

-- The ledger. Rows are only ever added. `number` is the order in which the writer added them, and is never used twice.
-- `seq` is the order within an account, so one index serves order and time. It is the microseconds of `at` since 1970
-- times 256, or one more than in the entry before, whichever is more. `account_part` is the part of the index by
-- account.
CREATE TABLE agentkey_entries (
    number       INTEGER PRIMARY KEY,
    id           BLOB    NOT NULL UNIQUE CHECK (length(id) = 16),
    seq          INTEGER NOT NULL,
    account_id   TEXT    NOT NULL,
    key_id       INTEGER CHECK (key_id IS NOT NULL OR kind = 'adjust'), -- NULL where the account itself was adjusted
    kind         TEXT    NOT NULL,
    amount       INTEGER NOT NULL,
    at           INTEGER NOT NULL,
    counts_at    INTEGER NOT NULL,
    refunds      BLOB,
    labels       TEXT    NOT NULL,
    reference    TEXT,
    account_part INTEGER NOT NULL
) STRICT;
CREATE INDEX agentkey_entries_refunds ON agentkey_entries (refunds) WHERE refunds IS NOT NULL;
-- A refund counts at the time of the refunded entry. No other entry counts at another time than its own.
CREATE INDEX agentkey_entries_refunds_window ON agentkey_entries (account_id, counts_at) WHERE refunds IS NOT NULL;

-- The deferred indexes of the ledger by account and by key. For each part, `agentkey_index_parts` has the `number` up
-- to which its entries are indexed (`last`). At the number `due` the part is indexed again. Parts 0 to 15 are those of
-- the index by key: `key_id & 15`. Parts 16 to 31 are those of the index by account: `16 + (account_part & 15)`.
CREATE TABLE agentkey_entries_of_account (
    account_id TEXT    NOT NULL,
    seq        INTEGER NOT NULL,
    number     INTEGER NOT NULL,
    PRIMARY KEY (account_id, seq, number)
) STRICT, WITHOUT ROWID;
CREATE TABLE agentkey_entries_of_key (
    key_id     INTEGER NOT NULL,
    seq        INTEGER NOT NULL,
    number     INTEGER NOT NULL,
    PRIMARY KEY (key_id, seq, number)
) STRICT, WITHOUT ROWID;
CREATE TABLE agentkey_index_parts (
    part INTEGER PRIMARY KEY,
    last INTEGER NOT NULL,
    due  INTEGER NOT NULL
) STRICT;
WITH RECURSIVE parts (part) AS (SELECT 0 UNION ALL SELECT part + 1 FROM parts WHERE part < 31)
INSERT INTO agentkey_index_parts (part, last, due) SELECT part, 0, 0 FROM parts;

-- The sums of entries that are no longer kept, by account, key, day and labels. `id` is a digest of these. The whole sum
-- counts at `counts_at`, the start of the day. `amount` is the charges less the refunds. Both sums are in two parts, the
-- multiples of 2^32 and the rest, so that none overflows.
CREATE TABLE agentkey_rollups (
    id            BLOB    PRIMARY KEY NOT NULL CHECK (length(id) = 16),
    account_id    TEXT    NOT NULL,
    key_id        INTEGER, -- NULL where the account itself was adjusted
    counts_at     INTEGER NOT NULL,
    labels        TEXT    NOT NULL,
    amount_high   INTEGER NOT NULL,
    amount_low    INTEGER NOT NULL,
    charges       INTEGER NOT NULL,
    adjusted_high INTEGER NOT NULL,
    adjusted_low  INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX agentkey_rollups_account ON agentkey_rollups (account_id, counts_at);
CREATE INDEX agentkey_rollups_key ON agentkey_rollups (key_id, counts_at) WHERE key_id IS NOT NULL;

-- What clients sent as `Idempotency-Key`.
CREATE TABLE agentkey_idempotency_keys (
    key_id          INTEGER NOT NULL,
    idempotency_key TEXT    NOT NULL,
    fingerprint     BLOB    NOT NULL CHECK (length(fingerprint) = 32),
    owner           BLOB    NOT NULL CHECK (length(owner) = 16),
    in_flight_until INTEGER,
    entry           BLOB,
    PRIMARY KEY (key_id, idempotency_key)
) STRICT, WITHOUT ROWID;
-- When an entry is rolled up, the idempotency key that is bound to it goes with it.
CREATE INDEX agentkey_idempotency_keys_entry ON agentkey_idempotency_keys (entry) WHERE entry IS NOT NULL;

-- The audit trail. Each row is written in the transaction of what it tells, and holds no secret. The refusals of a key in
-- one minute, for one reason and on one route, are one row. Only such a row has a `reason`; its `at` is the minute.
CREATE TABLE agentkey_events (
    seq          INTEGER PRIMARY KEY AUTOINCREMENT,
    at           INTEGER NOT NULL,
    account_id   TEXT    NOT NULL,
    key_id       INTEGER,
    key_name     TEXT,
    lineage      TEXT    NOT NULL, -- a JSON array: the key and its ancestors
    delegated_by TEXT,
    kind         TEXT    NOT NULL,
    actor        TEXT    NOT NULL, -- a JSON object
    request_id   TEXT,
    route        TEXT,
    reason       TEXT,
    count        INTEGER NOT NULL DEFAULT 1,
    detail       TEXT    NOT NULL  -- a JSON object
) STRICT;
CREATE INDEX agentkey_events_account ON agentkey_events (account_id, seq);
CREATE INDEX agentkey_events_key ON agentkey_events (key_id, seq) WHERE key_id IS NOT NULL;
CREATE UNIQUE INDEX agentkey_events_refused ON agentkey_events (key_id, at, reason, coalesce(route, '')) WHERE reason IS NOT NULL;

-- When keys were last used. The crate writes it for many keys at once, not at each use.
CREATE TABLE agentkey_last_used (
    key_id  INTEGER PRIMARY KEY,
    used_at INTEGER NOT NULL
) STRICT;

-- The keys that sign the tokens of sessions, where the application brings none. A signing key alone opens no session:
-- each token also has a random part, of which only the hash is kept.
CREATE TABLE agentkey_signing_keys (
    kid        TEXT PRIMARY KEY,
    algorithm  TEXT    NOT NULL, -- 'EdDSA' or 'HS256'
    secret     BLOB    NOT NULL,
    created_at INTEGER NOT NULL
) STRICT;

-- Who is making the key of a subject that was never seen before, and until when others wait for that.
CREATE TABLE agentkey_first_seen (
    key_hash TEXT PRIMARY KEY NOT NULL, -- the digest of the subject
    owner    BLOB    NOT NULL,
    until    INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- The version of the file: two random numbers, so that a restored backup cannot repeat one. `state` changes with every
-- transaction of the crate that changes what a posting reads. `version` changes with every policy change, by any SQL.
CREATE TABLE agentkey_ledger (
    id    INTEGER PRIMARY KEY CHECK (id = 0),
    state INTEGER NOT NULL
) STRICT;
INSERT INTO agentkey_ledger (id, state) VALUES (0, random());
CREATE TABLE agentkey_policy (
    id      INTEGER PRIMARY KEY CHECK (id = 0),
    version INTEGER NOT NULL
) STRICT;
INSERT INTO agentkey_policy (id, version) VALUES (0, random());

-- A new key changes nothing that was read before, unless it replaces another key. The same is true of a column that the
-- application added.
CREATE TRIGGER agentkey_policy_key_replaced BEFORE INSERT ON agent_keys
WHEN EXISTS (SELECT 1 FROM agent_keys WHERE id = NEW.id OR key_hash = NEW.key_hash)
BEGIN UPDATE agentkey_policy SET version = random(); END;
CREATE TRIGGER agentkey_policy_key_changed AFTER UPDATE OF name, prefix, start, key_hash, scopes, limit_micros, period,
    more_limits, rate_limit, allowed_cidrs, created_at, expires_at, disabled_at, revoked_at, revoked_reason, delegated_by,
    metadata ON agent_keys
BEGIN UPDATE agentkey_policy SET version = random(); END;
CREATE TRIGGER agentkey_policy_key_deleted AFTER DELETE ON agent_keys
BEGIN UPDATE agentkey_policy SET version = random(); END;
CREATE TRIGGER agentkey_policy_token_retired AFTER INSERT ON agentkey_retired_tokens
BEGIN UPDATE agentkey_policy SET version = random(); END;
CREATE TRIGGER agentkey_policy_token_changed AFTER UPDATE ON agentkey_retired_tokens
BEGIN UPDATE agentkey_policy SET version = random(); END;
CREATE TRIGGER agentkey_policy_token_deleted AFTER DELETE ON agentkey_retired_tokens
BEGIN UPDATE agentkey_policy SET version = random(); END;
-- Postings write other columns of accounts, so they do not fire this trigger.
CREATE TRIGGER agentkey_policy_account_changed AFTER UPDATE OF limit_micros, period, more_limits ON agentkey_accounts
BEGIN UPDATE agentkey_policy SET version = random(); END;
