-- The tables beside the table of keys. {...} is a name of the schema in use. Money is in micro-units. Account ids sort
-- as in Rust, so that all processes lock accounts in the same order.

-- The account row is the lock and the version of an account's keys, holds and entries. `changed_at` is the instant of
-- its last change. No live hold of the account expires before `next_expiry`. `last_entry` is the `seq` of its last
-- entry.
CREATE TABLE {accounts} (
    id           text COLLATE "C" PRIMARY KEY,
    version      bigint      NOT NULL,
    changed_at   timestamptz NOT NULL,
    limit_micros bigint,
    period       text        NOT NULL,
    more_limits  jsonb,
    created_at   timestamptz NOT NULL,
    spent        bigint      NOT NULL,
    held         bigint      NOT NULL,
    since        timestamptz NOT NULL,
    more_spent   jsonb, -- an object of other periods, each with its micro-units and the microseconds of its start
    next_expiry  timestamptz,
    last_entry   bigint      NOT NULL DEFAULT -9223372036854775808
) WITH (fillfactor = 50);
-- A trigger, not CHECKs: PostgreSQL would prepare and test CHECKs in every charge, whichever columns it writes.
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
-- The sweep finds overdue accounts with this index.
CREATE INDEX ON {accounts} (next_expiry);

-- Money of keys. A key without a row has spent nothing. `period` is the period that `spent` counts, and
-- `more_spent` has the other periods. If the application's own SQL gave the key another period, what was spent in it is
-- counted from the entries. A key whose own row
-- names another account is out of service. Windows are counted from `anchor`, or from the creation of the key if it is
-- NULL.
CREATE TABLE {balances} (
    key_id     bigint PRIMARY KEY,
    account_id text COLLATE "C" NOT NULL,
    period     text        NOT NULL,
    spent      bigint      NOT NULL,
    held       bigint      NOT NULL,
    since      timestamptz NOT NULL,
    more_spent jsonb,
    anchor     timestamptz
) WITH (fillfactor = 70);

-- Tokens that were rotated away and work until `retires_at`. With `sub` it is the digest of a subject that a row of the
-- application's own table is for, without an end: it finds the row for as long as the row has this subject.
CREATE TABLE {retired_tokens} (
    key_hash   text PRIMARY KEY,
    key_id     bigint      NOT NULL,
    retires_at timestamptz NOT NULL,
    issuer     text COLLATE "C",
    sub        text COLLATE "C"
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
    state      text        NOT NULL  -- 'live', 'ended' or 'charged'
);
CREATE INDEX ON {holds} (account_id, expires_at) WHERE state = 'live';

-- The ledger. Rows are only ever added. `seq` is the order within an account, so one index serves order and time. It is
-- the microseconds of `at` since 1970 times 256, or one more than in the entry before, whichever is more.
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

-- The sums of entries that are no longer kept, by account, key, day and labels. `id` is a digest of these. The whole sum
-- counts at `counts_at`, the start of the day. `amount` is the charges less the refunds. Both sums are in two parts, the
-- multiples of 2^32 and the rest, so that none overflows.
CREATE TABLE {rollups} (
    id            uuid PRIMARY KEY,
    account_id    text COLLATE "C" NOT NULL,
    key_id        bigint,     -- NULL where the account itself was adjusted
    counts_at     timestamptz NOT NULL,
    labels        jsonb       NOT NULL,
    amount_high   bigint      NOT NULL,
    amount_low    bigint      NOT NULL,
    charges       bigint      NOT NULL,
    adjusted_high bigint      NOT NULL,
    adjusted_low  bigint      NOT NULL
);
CREATE INDEX ON {rollups} (account_id, counts_at);
CREATE INDEX ON {rollups} (key_id, counts_at) WHERE key_id IS NOT NULL;

-- What clients sent as `Idempotency-Key`.
CREATE TABLE {idempotency_keys} (
    key_id          bigint NOT NULL,
    idempotency_key text   NOT NULL,
    fingerprint     bytea  NOT NULL CHECK (length(fingerprint) = 32),
    owner           uuid   NOT NULL,
    in_flight_until timestamptz,
    entry           uuid,
    PRIMARY KEY (key_id, idempotency_key)
);
-- When an entry is rolled up, the idempotency key that is bound to it goes with it.
CREATE INDEX ON {idempotency_keys} (entry) WHERE entry IS NOT NULL;

-- The audit trail. Each row is written in the transaction of what it tells, and holds no secret. The refusals of a key in
-- one minute, for one reason and on one route, are one row. Only such a row has a `reason`; its `at` is the minute.
CREATE TABLE {events} (
    seq          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at           timestamptz NOT NULL,
    account_id   text COLLATE "C" NOT NULL,
    key_id       bigint,
    key_name     text,
    lineage      bigint[]    NOT NULL, -- the key and its ancestors
    delegated_by text,
    kind         text        NOT NULL,
    actor        jsonb       NOT NULL,
    request_id   text,
    route        text,
    reason       text,
    count        bigint      NOT NULL DEFAULT 1,
    detail       jsonb       NOT NULL
);
CREATE INDEX ON {events} (account_id, seq);
CREATE INDEX ON {events} (key_id, seq) WHERE key_id IS NOT NULL;
CREATE UNIQUE INDEX ON {events} (key_id, at, reason, coalesce(route, '')) WHERE reason IS NOT NULL;

-- When keys were last used. The crate writes it for many keys at once, not at each use.
CREATE TABLE {last_used} (
    key_id  bigint PRIMARY KEY,
    used_at timestamptz NOT NULL
);

-- What keys have used of their rate limits, where all instances share them. `key_id` is a key, or for the default of a
-- layer a negative number that follows from both (`RateId` in `src/ledger/rate.rs`). `used_until` is the instant, in
-- nanoseconds since 1970, at which nothing of it counts any more. It is no loss if a crash of the server empties the table.
CREATE UNLOGGED TABLE {rate_limits} (
    key_id     bigint PRIMARY KEY,
    used_until bigint NOT NULL
) WITH (fillfactor = 50);

-- Takes from rate limits for groups of requests, each of one lineage: of as many requests of a group as all limits of its
-- lineage let through. `keys` are in order, each once. The limits of the groups follow one another, so many for each group
-- as `sizes` says, each with the place of its key in `keys`. It decides as `Take::decide` in `src/ledger/rate.rs`.
CREATE FUNCTION {schema}."agentkey_take_rates"(
    keys bigint[], places int4[], intervals bigint[], capacities bigint[], sizes int4[], requests int4[], shown timestamptz,
    OUT granted int4[], OUT used bigint[], OUT taken_at bigint
) LANGUAGE plpgsql AS $$
DECLARE
    first int4 := 1;
    n bigint;
    before bigint[];
BEGIN
    -- Rows are made and locked in the order of the keys, so that instances wait and do not deadlock. A row that was
    -- pruned before its lock is made again.
    LOOP
        IF EXISTS (SELECT FROM unnest(keys) k WHERE NOT EXISTS (SELECT FROM {rate_limits} r WHERE r.key_id = k)) THEN
            INSERT INTO {rate_limits} (key_id, used_until) SELECT k, 0 FROM unnest(keys) k ORDER BY k ON CONFLICT DO NOTHING;
        END IF;
        SELECT array_agg(r.used_until ORDER BY w.place) INTO before
        FROM (SELECT * FROM unnest(keys) WITH ORDINALITY w (key_id, place) ORDER BY w.key_id OFFSET 0) w
        CROSS JOIN LATERAL (SELECT r.used_until FROM {rate_limits} r WHERE r.key_id = w.key_id OFFSET 0 FOR UPDATE) r;
        EXIT WHEN coalesce(cardinality(before), 0) = cardinality(keys);
    END LOOP;
    used := before;
    -- After the lock, so that no later batch has an earlier instant.
    taken_at := (extract(epoch FROM coalesce(shown, clock_timestamp())) * 1000000)::bigint * 1000;
    FOR g IN 1..cardinality(sizes) LOOP
        n := requests[g];
        FOR i IN first..first + sizes[g] - 1 LOOP
            n := least(n, (taken_at + capacities[i]
                - greatest(taken_at, least(used[places[i]], taken_at + capacities[i]))) / intervals[i]);
        END LOOP;
        granted[g] := n;
        IF n > 0 THEN
            FOR i IN first..first + sizes[g] - 1 LOOP
                used[places[i]] := greatest(taken_at, least(used[places[i]], taken_at + capacities[i])) + n * intervals[i];
            END LOOP;
        END IF;
        first := first + sizes[g];
    END LOOP;
    UPDATE {rate_limits} r SET used_until = w.used_until FROM unnest(keys, before, used) w (key_id, was, used_until)
    WHERE r.key_id = w.key_id AND w.used_until <> w.was;
END $$;

-- The keys that sign the tokens of sessions, where the application brings none. A signing key alone opens no session:
-- each token also has a random part, of which only the hash is kept.
CREATE TABLE {signing_keys} (
    kid        text PRIMARY KEY,
    algorithm  text        NOT NULL, -- 'EdDSA' or 'HS256'
    secret     bytea       NOT NULL,
    created_at timestamptz NOT NULL
);

-- Who is making the key of a subject that was never seen before, and until when others wait for that.
CREATE TABLE {first_seen} (
    key_hash text PRIMARY KEY, -- the digest of the subject
    owner    uuid        NOT NULL,
    until    timestamptz NOT NULL
);

-- The application's own table of keys, if these tables are used with one: at most one. `columns` maps each field to its
-- column, and `switches` the columns that switch keys off to when they do. NULL in a row of that table means `scopes` (NULL is unrestricted), `limit_micros` (NULL is unlimited) with
-- `period`, and `adopted_at` as the creation.
CREATE TABLE {adoption} (
    is_one       boolean PRIMARY KEY DEFAULT true CHECK (is_one),
    table_name   text        NOT NULL,
    columns      jsonb       NOT NULL,
    switches     jsonb       NOT NULL,
    scopes       text[],
    limit_micros bigint,
    period       text        NOT NULL,
    issuer       text, -- of the subjects in rows that name none
    adopted_at   timestamptz NOT NULL
);

-- The policy version is the sum of the steps. It changes with every change of what look-ups read, except figures of
-- money, by any SQL. A change adds a row, so it never waits for another transaction, and it counts when it is
-- committed. Steps are random, so that a restored backup never repeats a version. A process that polls the version
-- folds the rows.
CREATE TABLE {policy_changes} (
    step bigint NOT NULL DEFAULT 1 + floor(random() * 4503599627370496)::bigint
);
INSERT INTO {policy_changes} DEFAULT VALUES;

-- The function runs with the rights of its owner, so a role that may write keys needs no rights on the table above.
-- Charges name none of the columns of these triggers.
CREATE FUNCTION {schema}."agentkey_record_policy_change"() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS
    $$ BEGIN INSERT INTO {policy_changes} DEFAULT VALUES; RETURN NULL; END $$;
CREATE TRIGGER agentkey_policy_change AFTER UPDATE OF limit_micros, period, more_limits OR DELETE OR TRUNCATE ON {accounts}
    FOR EACH STATEMENT EXECUTE FUNCTION {schema}."agentkey_record_policy_change"();
CREATE TRIGGER agentkey_policy_change AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON {retired_tokens}
    FOR EACH STATEMENT EXECUTE FUNCTION {schema}."agentkey_record_policy_change"();
