-- Policy. Read on every request, written only by changes of policy: a charge never touches this table.
-- Instants are microseconds since the Unix epoch, money is micro-units.
CREATE TABLE agent_keys (
    id           INTEGER PRIMARY KEY AUTOINCREMENT,
    account_id   TEXT    NOT NULL,
    parent_id    INTEGER,
    name         TEXT    NOT NULL DEFAULT '',
    prefix       TEXT    NOT NULL DEFAULT '',
    start        TEXT    NOT NULL DEFAULT '',
    key_hash     TEXT    NOT NULL UNIQUE, -- SHA-256 of the token, lower-case hex
    scopes       TEXT,                    -- a JSON array; NULL is unrestricted, [] is none
    limit_micros INTEGER,                 -- NULL is unlimited
    period       TEXT    NOT NULL DEFAULT 'lifetime',
    created_at   INTEGER NOT NULL,
    expires_at   INTEGER,
    revoked_at   INTEGER
) STRICT;
CREATE INDEX agent_keys_account ON agent_keys (account_id, id);
CREATE INDEX agent_keys_parent ON agent_keys (parent_id, id) WHERE parent_id IS NOT NULL;

-- The lock and version of an account's keys, holds and entries. `changed_at` is the instant of its last change.
CREATE TABLE agentkey_accounts (
    id           TEXT    PRIMARY KEY NOT NULL,
    version      INTEGER NOT NULL,
    changed_at   INTEGER NOT NULL,
    limit_micros INTEGER,
    period       TEXT    NOT NULL,
    created_at   INTEGER NOT NULL,
    spent        INTEGER NOT NULL,
    held         INTEGER NOT NULL,
    since        INTEGER NOT NULL
) STRICT;

-- Money of keys. A key without a row has spent nothing. `period` is the one that `spent` counts: where the host's own
-- SQL gave the key another, it is counted anew from the entries.
CREATE TABLE agentkey_balances (
    key_id INTEGER PRIMARY KEY,
    period TEXT    NOT NULL,
    spent  INTEGER NOT NULL,
    held   INTEGER NOT NULL,
    since  INTEGER NOT NULL
) STRICT;

-- Tokens that were rotated away and still work for a while.
CREATE TABLE agentkey_retired_tokens (
    key_hash   TEXT    PRIMARY KEY NOT NULL,
    key_id     INTEGER NOT NULL,
    retires_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX agentkey_retired_tokens_key ON agentkey_retired_tokens (key_id);
CREATE INDEX agentkey_retired_tokens_end ON agentkey_retired_tokens (retires_at);

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
    state      TEXT    NOT NULL CHECK (state IN ('live', 'over', 'charged'))
) STRICT, WITHOUT ROWID;
CREATE INDEX agentkey_holds_account ON agentkey_holds (account_id, expires_at) WHERE state = 'live';
CREATE INDEX agentkey_holds_expiry ON agentkey_holds (expires_at, account_id) WHERE state = 'live';

-- The ledger. Rows are only ever added; `seq` is the order in which they were.
CREATE TABLE agentkey_entries (
    seq        INTEGER PRIMARY KEY AUTOINCREMENT,
    id         BLOB    NOT NULL UNIQUE CHECK (length(id) = 16),
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
CREATE INDEX agentkey_entries_account ON agentkey_entries (account_id, seq);
CREATE INDEX agentkey_entries_key ON agentkey_entries (key_id, seq);
CREATE INDEX agentkey_entries_time ON agentkey_entries (account_id, at, seq);
CREATE INDEX agentkey_entries_account_window ON agentkey_entries (account_id, counts_at, amount);
CREATE INDEX agentkey_entries_refunds ON agentkey_entries (refunds) WHERE refunds IS NOT NULL;

-- What clients sent as `Idempotency-Key`.
CREATE TABLE agentkey_claims (
    key_id          INTEGER NOT NULL,
    idempotency_key TEXT    NOT NULL,
    fingerprint     BLOB    NOT NULL CHECK (length(fingerprint) = 32),
    owner           BLOB    NOT NULL CHECK (length(owner) = 16),
    in_flight_until INTEGER,
    entry           BLOB,
    PRIMARY KEY (key_id, idempotency_key)
) STRICT, WITHOUT ROWID;

-- Who got which policy when. Written in the transaction of the change; holds no secret.
CREATE TABLE agentkey_events (
    seq        INTEGER PRIMARY KEY AUTOINCREMENT,
    at         INTEGER NOT NULL,
    account_id TEXT    NOT NULL,
    key_id     INTEGER,
    kind       TEXT    NOT NULL,
    detail     TEXT    NOT NULL
) STRICT;
CREATE INDEX agentkey_events_account ON agentkey_events (account_id, seq);
