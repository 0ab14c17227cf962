-- The tables beside the table of keys. {...} stands for a name of the schema in use.
-- Money is in micro-units. Account ids sort as Rust sorts them, so that everybody locks accounts in the same order.

-- The account row is the lock and the version of an account's keys, holds and entries. `changed_at` is the instant of its
-- last change. No live hold of the account expires before `next_expiry`. `last_entry` is the `seq` of its last entry.
CREATE TABLE {accounts} (
    id           text COLLATE "C" PRIMARY KEY,
    version      bigint      NOT NULL,
    changed_at   timestamptz NOT NULL,
    limit_micros bigint,
    period       text        NOT NULL,
    created_at   timestamptz NOT NULL,
    spent        bigint      NOT NULL,
    held         bigint      NOT NULL,
    since        timestamptz NOT NULL,
    next_expiry  timestamptz,
    last_entry   bigint      NOT NULL DEFAULT -9223372036854775808
) WITH (fillfactor = 50);
-- Not CHECKs: PostgreSQL would prepare and test those in every charge, whichever columns it writes.
CREATE FUNCTION {schema}."agentkey_refuse_account"() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE 'agentkey: an account has an id of 1 to 255 characters, none of them a control character, a limit that is not '
        'negative, and a known period' USING ERRCODE = '23514';
END $$;
CREATE TRIGGER agentkey_guard_account BEFORE INSERT OR UPDATE OF id, limit_micros, period ON {accounts} FOR EACH ROW
    WHEN (length(NEW.id) NOT BETWEEN 1 AND 255 OR NEW.limit_micros < 0
        OR NEW.id ~ ('[' || chr(1) || '-' || chr(31) || chr(127) || '-' || chr(159) || ']')
        OR NEW.period NOT IN ('lifetime', 'day', 'week', 'month', 'calendar_day', 'calendar_week', 'calendar_month'))
    EXECUTE FUNCTION {schema}."agentkey_refuse_account"();
-- The sweep finds accounts by it.
CREATE INDEX ON {accounts} (next_expiry);

-- Money of keys. A key without a row has spent nothing. `period` is the one that `spent` counts: where the application's own
-- SQL gave the key another, `spent` is counted from the entries. A key whose own row says another account is out of service.
-- `anchor` is where windows are counted from, if that is not when the key was made.
CREATE TABLE {balances} (
    key_id     bigint PRIMARY KEY,
    account_id text COLLATE "C" NOT NULL,
    period     text        NOT NULL,
    spent      bigint      NOT NULL,
    held       bigint      NOT NULL,
    since      timestamptz NOT NULL,
    anchor     timestamptz
) WITH (fillfactor = 70);

-- Tokens that were rotated away and still work for a while.
CREATE TABLE {retired_tokens} (
    key_hash   text PRIMARY KEY,
    key_id     bigint      NOT NULL,
    retires_at timestamptz NOT NULL
);
CREATE INDEX ON {retired_tokens} (key_id);

CREATE TABLE {holds} (
    id         uuid PRIMARY KEY,
    account_id text COLLATE "C" NOT NULL,
    key_id     bigint      NOT NULL,
    path       bigint[]    NOT NULL, -- the key and its ancestors
    amount     bigint      NOT NULL,
    created_at timestamptz NOT NULL,
    expires_at timestamptz NOT NULL,
    on_expiry  text        NOT NULL, -- 'release' or 'charge'
    labels     jsonb       NOT NULL,
    reference  text,
    state      text        NOT NULL  -- 'live', 'over' or 'charged'
);
CREATE INDEX ON {holds} (account_id, expires_at) WHERE state = 'live';

-- The ledger. Rows are only ever added. `seq` is their order within an account: the microseconds of `at` since 1970,
-- times 256, or one more than the entry before, whichever is more. So one index serves order and time.
CREATE TABLE {entries} (
    id         uuid PRIMARY KEY,
    seq        bigint      NOT NULL,
    account_id text COLLATE "C" NOT NULL,
    key_id     bigint,     -- NULL where the account itself was adjusted
    kind       text        NOT NULL,
    amount     bigint      NOT NULL,
    at         timestamptz NOT NULL,
    counts_at  timestamptz NOT NULL,
    refunds    uuid,
    labels     jsonb       NOT NULL,
    reference  text
);
CREATE UNIQUE INDEX ON {entries} (account_id, seq);
CREATE INDEX ON {entries} (key_id, seq);
CREATE INDEX ON {entries} (account_id, counts_at) WHERE refunds IS NOT NULL;
CREATE INDEX ON {entries} (refunds) WHERE refunds IS NOT NULL;

-- What clients sent as `Idempotency-Key`.
CREATE TABLE {claims} (
    key_id          bigint NOT NULL,
    idempotency_key text   NOT NULL,
    fingerprint     bytea  NOT NULL CHECK (length(fingerprint) = 32),
    owner           uuid   NOT NULL,
    in_flight_until timestamptz,
    entry           uuid,
    PRIMARY KEY (key_id, idempotency_key)
);

-- Who got which policy when. Written in the transaction of the change; holds no secret.
CREATE TABLE {events} (
    seq        bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at         timestamptz NOT NULL,
    account_id text COLLATE "C" NOT NULL,
    key_id     bigint,
    kind       text        NOT NULL,
    detail     jsonb       NOT NULL
);
CREATE INDEX ON {events} (account_id, seq);

-- When keys were last used. Written now and then, for many keys at once.
CREATE TABLE {uses} (
    key_id  bigint PRIMARY KEY,
    used_at timestamptz NOT NULL
);

-- The application's own table of keys that these tables stand beside, where they do: at most one. `columns` says which
-- column has which field. What a row leaves open means `scopes` (NULL is unrestricted), `limit_micros` (NULL is
-- unlimited) with `period`, and `adopted_at` for when it was made.
CREATE TABLE {adoption} (
    is_one       boolean PRIMARY KEY DEFAULT true CHECK (is_one),
    table_name   text        NOT NULL,
    columns      jsonb       NOT NULL,
    scopes       text[],
    limit_micros bigint,
    period       text        NOT NULL,
    adopted_at   timestamptz NOT NULL
);

-- The version of the policy is the sum of the steps: it moves with every change of what look-ups read, but for figures of
-- money, whoever makes it. A change adds a row, so it never waits for another transaction, and what is committed late
-- counts late. Steps are random, so that a restored backup never repeats a version. Processes that ask for it fold rows.
CREATE TABLE {policy_changes} (
    step bigint NOT NULL DEFAULT 1 + floor(random() * 4503599627370496)::bigint
);
INSERT INTO {policy_changes} DEFAULT VALUES;

-- Its owner's rights, so that whoever may write keys needs none on the table above. Charges name none of these columns.
CREATE FUNCTION {schema}."agentkey_record_policy_change"() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS
    $$ BEGIN INSERT INTO {policy_changes} DEFAULT VALUES; RETURN NULL; END $$;
CREATE TRIGGER agentkey_policy_change AFTER UPDATE OF limit_micros, period OR DELETE OR TRUNCATE ON {accounts}
    FOR EACH STATEMENT EXECUTE FUNCTION {schema}."agentkey_record_policy_change"();
CREATE TRIGGER agentkey_policy_change AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON {retired_tokens}
    FOR EACH STATEMENT EXECUTE FUNCTION {schema}."agentkey_record_policy_change"();
