//! Writing back what a book changed: one statement, on condition that what the decisions were based on still stands.
//!
//! While the statement waits for the account's row, only that row is read anew: everything else it reads is as it was
//! when the statement began. So every part of it is gated on the accounts whose version stood, nothing is summed up,
//! and an id that is there already makes the whole of it fail.
//!
//! Rows travel as columns, one array each, and name their account by its place among those of the batch. A row is its
//! number, made in a list of columns (`SELECT generate_subscripts(..), unnest(..)`): as a table, `unnest(.., ..)` keeps
//! each array whole in a store of its own first. Its cells of a fixed length are looked up by that number where they are
//! written; texts, which would be counted off from the first, are unnested beside it. Most rows are plain, and leave out
//! the columns that then say nothing.
//!
//! Which accounts fell is found once, by `(place IN (..)) IS NOT TRUE`, a look-up in a hash table (a plain `IN` would become
//! a join, and walk all accounts for each row). Rows are gated by those, as an array that is mostly empty, and they are
//! all that the statement answers.

use std::collections::HashMap;
use std::sync::OnceLock;

use jiff::Timestamp;
use sqlx::postgres::PgRow;
use uuid::Uuid;

use super::connection::Query;
use super::decode::Cells;
use super::error::{Result, invalid_row};
use super::known::Basis;
use super::layout::{Layout, Sql};
use super::types::Instant;
use crate::ledger::{BalanceRow, Changes, ClaimRow, HoldRow, HoldState, OnExpiry};
use crate::store::plain::next_place;
use crate::{AccountId, Balance, Entry, EntryId, EntryKind, KeyId, Note};

/// The texts of the write, one for each choice of its parts, made when it is first needed.
pub(super) struct Writes {
    texts: [OnceLock<Sql>; 64],
}

/// Which parts a write has, in the order of their parameters.
#[derive(Clone, Copy)]
struct Parts {
    balances: bool,
    new_holds: bool,
    changed_holds: bool,
    entries: bool,
    /// Whether holds and entries are other than [`Rows::are_plain`] says.
    full: bool,
    /// Claims, and accounts of which nothing changed.
    rare: bool,
}

/// A parameter: its name in the texts, and its type.
type Param = (&'static str, &'static str);

/// Accounts are locked, and then found by their place; one that somebody else has locked does not stand: rows that have
/// moved on since the statement began have another version anyway. Those of which a key's row has moved on stand no more
/// than they, and none in another run of the server than was asked about. Rows are gated by those that fell, which are few.
const HEAD: (&str, &[Param]) = (
    "WITH moved AS (SELECT {s.account}[w.i] AS account FROM (SELECT generate_subscripts({s.key}, 1) AS i OFFSET 0) w \
    WHERE (SELECT k.xmin FROM {keys} k WHERE k.{k.id} = {s.key}[w.i]) IS DISTINCT FROM {s.stamp}[w.i]), \
    given AS (SELECT w.* FROM (SELECT generate_subscripts({a.id}, 1) AS place, \
    unnest({a.id}) COLLATE \"C\" AS id OFFSET 0) w WHERE w.place <> ALL (ARRAY(SELECT account FROM moved)) \
    AND coalesce({a.run} = {run}, true)), \
    locked AS (SELECT w.place, a.tid FROM given w CROSS JOIN LATERAL (SELECT a.ctid AS tid FROM {accounts} a \
    WHERE a.id = w.id AND a.version = {a.version}[w.place] FOR NO KEY UPDATE SKIP LOCKED) a \
    WHERE {a.at}[w.place] IS NOT NULL), \
    stands AS (UPDATE {accounts} a SET version = a.version + {a.step}, changed_at = {a.at}[w.place], \
    spent = {a.spent}[w.place], held = {a.held}[w.place], since = {a.since}[w.place], \
    next_expiry = nullif({a.next_expiry}[w.place], 'infinity'), last_entry = {a.last_entry}[w.place] FROM locked w \
    WHERE a.ctid = w.tid AND a.version = {a.version}[w.place] RETURNING w.place), \
    fell AS MATERIALIZED (SELECT w.place FROM (SELECT generate_subscripts({a.id}, 1) AS place OFFSET 0) w \
    WHERE (w.place IN (SELECT place FROM stands{looked_at})) IS NOT TRUE)",
    &[
        ("a.id", "text[]"),
        ("s.key", "int8[]"),
        ("s.stamp", "int4[]"),
        ("s.account", "int4[]"),
        ("a.version", "int8[]"),
        ("a.at", "timestamptz[]"),
        ("a.spent", "int8[]"),
        ("a.held", "int8[]"),
        ("a.since", "timestamptz[]"),
        ("a.next_expiry", "timestamptz[]"),
        ("a.last_entry", "int8[]"),
        ("a.step", "int8"),
        ("a.run", "timestamptz"),
    ],
);

/// What a row of a part is gated on.
const STANDS: &str = "w.account <> ALL (ARRAY(SELECT place FROM fell))";

const BALANCES: (&str, &[Param]) = (
    ", balances AS (INSERT INTO {balances} (key_id, account_id, period, spent, held, since) \
    SELECT {b.key}[w.i], {a.id}[w.account], w.period, {b.spent}[w.i], {b.held}[w.i], {b.since}[w.i] \
    FROM (SELECT generate_subscripts({b.account}, 1) AS i, unnest({b.account}) AS account, unnest({b.period}) AS period \
    OFFSET 0) w WHERE {stands} ON CONFLICT (key_id) DO UPDATE SET period = excluded.period, \
    spent = excluded.spent, held = excluded.held, since = excluded.since)",
    &[
        ("b.key", "int8[]"),
        ("b.account", "int4[]"),
        ("b.spent", "int8[]"),
        ("b.held", "int8[]"),
        ("b.since", "timestamptz[]"),
        ("b.period", "text[]"),
    ],
);

const NEW_HOLDS: &str = ", new_holds AS (INSERT INTO {holds} (id, account_id, key_id, amount, expires_at, path, \
    created_at, on_expiry, state, labels, reference) SELECT {h.id}[w.i], {a.id}[w.account], {h.key}[w.i], \
    {h.amount}[w.i], {h.expires_at}[w.i], {rest} FROM (SELECT generate_subscripts({h.account}, 1) AS i, \
    unnest({h.account}) AS account{columns} OFFSET 0) w WHERE {stands})";

const PLAIN_HOLDS: (&str, &str, &[Param]) = (
    "ARRAY[{h.key}[w.i]], {a.at}[w.account], 'release', 'live', '{}'::jsonb, NULL",
    "",
    &[
        ("h.id", "uuid[]"),
        ("h.account", "int4[]"),
        ("h.key", "int8[]"),
        ("h.amount", "int8[]"),
        ("h.expires_at", "timestamptz[]"),
    ],
);

const FULL_HOLDS: (&str, &str, &[Param]) = (
    "w.path::int8[], {h.created_at}[w.i], w.on_expiry, w.state, w.labels::jsonb, w.reference",
    ", unnest({h.path}) AS path, unnest({h.on_expiry}) AS on_expiry, unnest({h.state}) AS state, \
    unnest({h.labels}) AS labels, unnest({h.reference}) AS reference",
    &[
        ("h.id", "uuid[]"),
        ("h.account", "int4[]"),
        ("h.key", "int8[]"),
        ("h.amount", "int8[]"),
        ("h.expires_at", "timestamptz[]"),
        ("h.path", "text[]"),
        ("h.created_at", "timestamptz[]"),
        ("h.on_expiry", "text[]"),
        ("h.state", "text[]"),
        ("h.labels", "text[]"),
        ("h.reference", "text[]"),
    ],
);

const CHANGED_HOLDS: &str = ", changed_holds AS (UPDATE {holds} h SET {set} \
    FROM (SELECT w.*, {c.id}[w.i] AS id FROM (SELECT generate_subscripts({c.account}, 1) AS i, unnest({c.account}) AS account{columns} \
    OFFSET 0) w WHERE {stands} OFFSET 0) w WHERE h.id = w.id AND h.id = ANY ({c.id}))";

const ENDED_HOLDS: (&str, &str, &[Param]) = ("state = 'over'", "", &[("c.id", "uuid[]"), ("c.account", "int4[]")]);

const FULL_CHANGED_HOLDS: (&str, &str, &[Param]) = (
    "expires_at = {c.expires_at}[w.i], state = w.state",
    ", unnest({c.state}) AS state",
    &[("c.id", "uuid[]"), ("c.account", "int4[]"), ("c.expires_at", "timestamptz[]"), ("c.state", "text[]")],
);

const ENTRIES: &str = ", entries AS (INSERT INTO {entries} (id, seq, account_id, key_id, amount, kind, at, counts_at, \
    labels, reference, refunds) SELECT {e.id}[w.i], {e.seq}[w.i], {a.id}[w.account], {e.key}[w.i], {e.amount}[w.i], \
    {rest} FROM (SELECT generate_subscripts({e.account}, 1) AS i, unnest({e.account}) AS account{columns} OFFSET 0) w \
    WHERE {stands})";

const PLAIN_ENTRIES: (&str, &str, &[Param]) = (
    "CASE WHEN {e.is_payment}[w.i] THEN 'pay' ELSE 'settle' END, {a.at}[w.account], {a.at}[w.account], '{}'::jsonb, \
    NULL, NULL",
    "",
    &[
        ("e.id", "uuid[]"),
        ("e.seq", "int8[]"),
        ("e.account", "int4[]"),
        ("e.key", "int8[]"),
        ("e.amount", "int8[]"),
        ("e.is_payment", "bool[]"),
    ],
);

const FULL_ENTRIES: (&str, &str, &[Param]) = (
    "w.kind, {e.at}[w.i], {e.counts_at}[w.i], w.labels::jsonb, w.reference, w.refunds",
    ", unnest({e.kind}) AS kind, unnest({e.labels}) AS labels, unnest({e.reference}) AS reference, \
    unnest({e.refunds}) AS refunds",
    &[
        ("e.id", "uuid[]"),
        ("e.seq", "int8[]"),
        ("e.account", "int4[]"),
        ("e.key", "int8[]"),
        ("e.amount", "int8[]"),
        ("e.kind", "text[]"),
        ("e.at", "timestamptz[]"),
        ("e.counts_at", "timestamptz[]"),
        ("e.labels", "text[]"),
        ("e.reference", "text[]"),
        ("e.refunds", "uuid[]"),
    ],
);

const CLAIMS: (&str, &[Param]) = (
    ", claims AS (INSERT INTO {claims} (key_id, idempotency_key, fingerprint, owner, \
    in_flight_until, entry) SELECT w.key_id, w.idempotency_key, w.fingerprint, w.owner, w.in_flight_until, w.entry \
    FROM (SELECT unnest({i.key}) AS key_id, unnest({i.account}) AS account, unnest({i.claim}) AS idempotency_key, \
    unnest({i.fingerprint}) AS fingerprint, unnest({i.owner}) AS owner, unnest({i.until}) AS in_flight_until, \
    unnest({i.entry}) AS entry OFFSET 0) w WHERE {stands} ON CONFLICT (key_id, idempotency_key) DO UPDATE SET \
    fingerprint = excluded.fingerprint, owner = excluded.owner, in_flight_until = excluded.in_flight_until, \
    entry = excluded.entry), \
    dropped_claims AS (DELETE FROM {claims} c USING (SELECT w.* FROM (SELECT unnest({d.key}) AS key_id, \
    unnest({d.account}) AS account, unnest({d.claim}) AS idempotency_key OFFSET 0) w WHERE {stands} OFFSET 0) w \
    WHERE c.key_id = w.key_id AND c.idempotency_key = w.idempotency_key \
    AND c.key_id = ANY ({d.key}) AND c.idempotency_key = ANY ({d.claim}))",
    &[
        ("i.key", "int8[]"),
        ("i.account", "int4[]"),
        ("i.claim", "text[]"),
        ("i.fingerprint", "bytea[]"),
        ("i.owner", "uuid[]"),
        ("i.until", "timestamptz[]"),
        ("i.entry", "uuid[]"),
        ("d.key", "int8[]"),
        ("d.account", "int4[]"),
        ("d.claim", "text[]"),
    ],
);

const TAIL: &str = " SELECT ARRAY(SELECT place FROM fell)";

/// Accounts of which nothing changed are only looked at.
const LOOKED_AT: &str = " UNION ALL SELECT w.place FROM given w CROSS JOIN LATERAL (SELECT a.id FROM {accounts} a \
    WHERE a.id = w.id AND a.version = {a.version}[w.place] OFFSET 0) a WHERE {a.at}[w.place] IS NULL";

/// What is to be written, and what it was decided by.
pub(super) struct Write<'a> {
    /// Each account once, all of one run.
    pub(super) bases: &'a [Basis],
    pub(super) changes: &'a [&'a Changes],
    /// What the version of every changed account grows by.
    pub(super) step: i64,
}

impl Parts {
    fn number(self) -> usize {
        let Self { balances, new_holds, changed_holds, entries, full, rare } = self;
        let parts = [balances, new_holds, changed_holds, entries, full, rare];
        parts.iter().enumerate().fold(0, |number, (place, part)| number | usize::from(*part) << place)
    }

    fn text(self) -> String {
        let (holds, changed_holds, entries) = match self.full {
            true => (FULL_HOLDS, FULL_CHANGED_HOLDS, FULL_ENTRIES),
            false => (PLAIN_HOLDS, ENDED_HOLDS, PLAIN_ENTRIES),
        };
        let with = |text: &str, (rest, columns, _): (&str, &str, &[Param])| {
            text.replace("{rest}", rest).replace("{set}", rest).replace("{columns}", columns)
        };
        let head = HEAD.0.replace("{looked_at}", if self.rare { LOOKED_AT } else { "" });
        let parts = [
            (true, head, HEAD.1),
            (self.balances, BALANCES.0.to_owned(), BALANCES.1),
            (self.new_holds, with(NEW_HOLDS, holds), holds.2),
            (self.changed_holds, with(CHANGED_HOLDS, changed_holds), changed_holds.2),
            (self.entries, with(ENTRIES, entries), entries.2),
            (self.rare, CLAIMS.0.to_owned(), CLAIMS.1),
            (true, TAIL.to_owned(), &[]),
        ];
        let parts = parts.into_iter().filter(|(chosen, ..)| *chosen);
        let (texts, params): (String, Vec<_>) = parts.map(|(_, text, params)| (text, params)).unzip();
        let mut text = texts.replace("{stands}", STANDS);
        for (number, (name, kind)) in (1..).zip(params.into_iter().flatten()) {
            // Said once: the text is a key of the map of prepared statements.
            let name = format!("{{{name}}}");
            text = text.replacen(&name, &format!("(${number}::{kind})"), 1).replace(&name, &format!("(${number})"));
        }
        text
    }
}

impl Writes {
    pub(super) fn new() -> Self {
        Self { texts: [const { OnceLock::new() }; 64] }
    }

    fn text(&self, layout: &Layout, parts: Parts) -> Sql {
        let make = || layout.sql(&parts.text());
        self.texts.get(parts.number()).map_or_else(make, |text| text.get_or_init(make).clone())
    }

    /// The statement; its rows are read by [`stood`].
    pub(super) fn query<'q>(&self, layout: &Layout, write: &Write<'_>) -> Result<Query<'q>> {
        let rows = Rows::of(write);
        if !rows.are_of_the_batch() {
            return Err(invalid_row("a row is to be written of an account that is not of the batch"));
        }
        let parts = rows.parts();
        let query = rows.bind_head(self.text(layout, parts).query(), write.step);
        let query = if parts.balances { rows.bind_balances(query) } else { query };
        let query = if parts.new_holds { rows.bind_new_holds(query, parts.full) } else { query };
        let query = if parts.changed_holds { rows.bind_changed_holds(query, parts.full) } else { query };
        let query = if parts.entries { rows.bind_entries(query, parts.full) } else { query };
        Ok(if parts.rare { rows.bind_claims(query) } else { query })
    }
}

/// For each account, by its place, whether its basis stood.
pub(super) fn stood(rows: &[PgRow], bases: &[Basis]) -> Result<Vec<bool>> {
    let mut stood = vec![true; bases.len()];
    let row = rows.first().ok_or_else(|| invalid_row("a write tells nothing"))?;
    for place in Cells::of(row).read::<Vec<i32>>()? {
        let slot = usize::try_from(place).ok().and_then(|place| stood.get_mut(place.checked_sub(1)?));
        *slot.ok_or_else(|| invalid_row("a write tells of an account that is not of the batch"))? = false;
    }
    Ok(stood)
}

/// No live hold of the account runs out before this.
pub(super) fn next_expiry(basis: &Basis, changes: &Changes) -> Option<Timestamp> {
    let holds = changes.new_holds.iter().chain(&changes.changed_holds).filter(|hold| hold.account == basis.account);
    holds.filter(|hold| hold.state == HoldState::Live).map(|hold| hold.expires_at).chain(basis.next_expiry).min()
}

/// Where the last entry of the account stands.
pub(super) fn last_entry(basis: &Basis, changes: &Changes) -> i64 {
    let entries = changes.entries.iter().filter(|entry| entry.account == basis.account);
    entries.fold(basis.last_entry, |last, entry| next_place(last, entry.at))
}

/// What goes to the server: each row with the place of its account, counted from 1; 0 for one that is not of the batch.
struct Rows<'a> {
    bases: &'a [Basis],
    /// As it will be, and when that was decided; `None` where nothing changes.
    accounts: Vec<Option<(Balance, Timestamp)>>,
    next_expiries: Vec<Option<Timestamp>>,
    last_entries: Vec<i64>,
    balances: Vec<(i32, &'a BalanceRow)>,
    new_holds: Vec<(i32, &'a HoldRow)>,
    changed_holds: Vec<(i32, &'a HoldRow)>,
    /// With their places in the ledger.
    entries: Vec<(i32, &'a Entry, i64)>,
    claims: Vec<(i32, &'a ClaimRow)>,
    dropped_claims: Vec<(i32, KeyId, &'a str)>,
}

impl<'a> Rows<'a> {
    fn of(write: &Write<'a>) -> Self {
        let Write { bases, changes, .. } = *write;
        let places: HashMap<&AccountId, i32> = bases.iter().map(|basis| &basis.account).zip(1..).collect();
        let of = |account: &AccountId| places.get(account).copied().unwrap_or(0);
        let slot = |place: i32| usize::try_from(place).unwrap_or(0).wrapping_sub(1);
        let mut rows = Self {
            bases,
            accounts: vec![None; bases.len()],
            next_expiries: bases.iter().map(|basis| basis.next_expiry).collect(),
            last_entries: bases.iter().map(|basis| basis.last_entry).collect(),
            balances: Vec::new(),
            new_holds: Vec::new(),
            changed_holds: Vec::new(),
            entries: Vec::new(),
            claims: Vec::new(),
            dropped_claims: Vec::new(),
        };
        for changes in changes {
            for (account, at) in &changes.accounts {
                if let Some(changed) = rows.accounts.get_mut(slot(of(&account.id))) {
                    *changed = Some((account.balance, *at));
                }
            }
            for hold in changes.new_holds.iter().chain(&changes.changed_holds) {
                if let Some(next) = rows.next_expiries.get_mut(slot(of(&hold.account)))
                    && hold.state == HoldState::Live
                {
                    *next = Some(next.map_or(hold.expires_at, |next| next.min(hold.expires_at)));
                }
            }
            for entry in &changes.entries {
                let place = of(&entry.account);
                if let Some(last) = rows.last_entries.get_mut(slot(place)) {
                    *last = next_place(*last, entry.at);
                    rows.entries.push((place, entry, *last));
                }
            }
            rows.balances.extend(changes.balances.iter().map(|row| (of(&row.account), row)));
            rows.new_holds.extend(changes.new_holds.iter().map(|hold| (of(&hold.account), hold)));
            rows.changed_holds.extend(changes.changed_holds.iter().map(|hold| (of(&hold.account), hold)));
            rows.claims.extend(changes.claims.iter().map(|(account, row)| (of(account), row)));
            let dropped = changes.dropped_claims.iter().map(|(account, key, claim)| (of(account), *key, &**claim));
            rows.dropped_claims.extend(dropped);
        }
        rows
    }

    /// A row of another account would never be written, and nobody would be told.
    fn are_of_the_batch(&self) -> bool {
        let places = self.balances.iter().map(|row| row.0).chain(self.entries.iter().map(|row| row.0));
        let places = places.chain(self.new_holds.iter().chain(&self.changed_holds).map(|row| row.0));
        let mut places = places.chain(self.claims.iter().map(|row| row.0));
        places.all(|place| place != 0) && self.dropped_claims.iter().all(|row| row.0 != 0)
    }

    fn parts(&self) -> Parts {
        Parts {
            balances: !self.balances.is_empty(),
            new_holds: !self.new_holds.is_empty(),
            changed_holds: !self.changed_holds.is_empty(),
            entries: !self.entries.is_empty(),
            full: !self.are_plain(),
            rare: !self.claims.is_empty()
                || !self.dropped_claims.is_empty()
                || self.accounts.iter().any(Option::is_none),
        }
    }

    /// Whether holds and entries are as they are most often, so that most of their columns need not travel: without notes
    /// and refunds, of the instant at which their account is changed, taken from one key to be released, and ended.
    fn are_plain(&self) -> bool {
        let is_empty = |note: &Note| note.labels.is_empty() && note.reference.is_none();
        let now = |place: i32| {
            let place = usize::try_from(place).ok()?.checked_sub(1)?;
            self.accounts.get(place).copied().flatten().map(|(_, at)| at)
        };
        let is_plain_hold = |(place, hold): &(i32, &HoldRow)| {
            hold.path == [hold.key]
                && hold.on_expiry == OnExpiry::Release
                && hold.state == HoldState::Live
                && now(*place) == Some(hold.created_at)
                && is_empty(&hold.note)
        };
        let is_plain_entry = |(place, entry, _): &(i32, &Entry, i64)| {
            matches!(entry.kind, EntryKind::Pay | EntryKind::Settle)
                && now(*place) == Some(entry.at)
                && entry.counts_at == entry.at
                && entry.refunds.is_none()
                && is_empty(&entry.note)
        };
        self.new_holds.iter().all(is_plain_hold)
            && self.changed_holds.iter().all(|(_, hold)| hold.state == HoldState::Over)
            && self.entries.iter().all(is_plain_entry)
    }

    fn bind_head<'q>(&self, query: Query<'q>, step: i64) -> Query<'q> {
        let keys =
            || self.bases.iter().zip(1..).flat_map(|(basis, place)| basis.keys.iter().map(move |key| (place, key)));
        let changed = &self.accounts;
        query
            .bind(column(self.bases, |basis| basis.account.as_str()))
            .bind(keys().map(|(_, (key, _))| key.get()).collect::<Vec<_>>())
            .bind(keys().map(|(_, (_, stamp))| *stamp).collect::<Vec<_>>())
            .bind(keys().map(|(place, _): (i32, _)| place).collect::<Vec<_>>())
            .bind(column(self.bases, |basis| basis.version))
            .bind(column(changed, |changed| changed.map(|(_, at)| Instant(at))))
            .bind(column(changed, |changed| changed.map(|(balance, _)| balance.spent.as_micros())))
            .bind(column(changed, |changed| changed.map(|(balance, _)| balance.held.as_micros())))
            .bind(column(changed, |changed| changed.map(|(balance, _)| Instant(balance.since))))
            .bind(column(&self.next_expiries, |next| Instant(next.unwrap_or(Timestamp::MAX)))) // which is infinity
            .bind(&self.last_entries)
            .bind(step)
            .bind(self.bases.first().and_then(|basis| basis.run).map(Instant))
    }

    fn bind_balances<'q>(&self, query: Query<'q>) -> Query<'q> {
        let rows = &self.balances;
        query
            .bind(column(rows, |(_, row)| row.key.get()))
            .bind(column(rows, |(place, _)| *place))
            .bind(column(rows, |(_, row)| row.balance.spent.as_micros()))
            .bind(column(rows, |(_, row)| row.balance.held.as_micros()))
            .bind(column(rows, |(_, row)| Instant(row.balance.since)))
            .bind(column(rows, |(_, row)| row.period.as_str()))
    }

    fn bind_new_holds<'q>(&self, query: Query<'q>, full: bool) -> Query<'q> {
        let path = |hold: &HoldRow| {
            let ids: Vec<_> = hold.path.iter().map(ToString::to_string).collect();
            format!("{{{}}}", ids.join(","))
        };
        let on_expiry = |hold: &HoldRow| match hold.on_expiry {
            OnExpiry::Release => "release",
            OnExpiry::Charge => "charge",
        };
        let rows = &self.new_holds;
        let query = query
            .bind(column(rows, |(_, hold)| Uuid::from_bytes(*hold.id.as_bytes())))
            .bind(column(rows, |(place, _)| *place))
            .bind(column(rows, |(_, hold)| hold.key.get()))
            .bind(column(rows, |(_, hold)| hold.amount.as_micros()))
            .bind(column(rows, |(_, hold)| Instant(hold.expires_at)));
        if !full {
            return query;
        }
        let query = query
            .bind(column(rows, |(_, hold)| path(hold)))
            .bind(column(rows, |(_, hold)| Instant(hold.created_at)))
            .bind(column(rows, |(_, hold)| on_expiry(hold)))
            .bind(column(rows, |(_, hold)| state(hold.state)));
        bind_notes(query, rows.iter().map(|(_, hold)| &hold.note))
    }

    fn bind_changed_holds<'q>(&self, query: Query<'q>, full: bool) -> Query<'q> {
        let rows = &self.changed_holds;
        let query = query
            .bind(column(rows, |(_, hold)| Uuid::from_bytes(*hold.id.as_bytes())))
            .bind(column(rows, |(place, _)| *place));
        if !full {
            return query;
        }
        query.bind(column(rows, |(_, hold)| Instant(hold.expires_at))).bind(column(rows, |(_, hold)| state(hold.state)))
    }

    fn bind_entries<'q>(&self, query: Query<'q>, full: bool) -> Query<'q> {
        let rows = &self.entries;
        let query = query
            .bind(column(rows, |(_, entry, _)| uuid(entry.id)))
            .bind(column(rows, |(.., seq)| *seq))
            .bind(column(rows, |(place, ..)| *place))
            .bind(column(rows, |(_, entry, _)| entry.key.get()))
            .bind(column(rows, |(_, entry, _)| entry.amount.as_micros()));
        if !full {
            return query.bind(column(rows, |(_, entry, _)| entry.kind == EntryKind::Pay));
        }
        let query = query
            .bind(column(rows, |(_, entry, _)| entry.kind.as_str()))
            .bind(column(rows, |(_, entry, _)| Instant(entry.at)))
            .bind(column(rows, |(_, entry, _)| Instant(entry.counts_at)));
        let query = bind_notes(query, rows.iter().map(|(_, entry, _)| &entry.note));
        query.bind(column(rows, |(_, entry, _)| entry.refunds.map(uuid)))
    }

    fn bind_claims<'q>(&self, query: Query<'q>) -> Query<'q> {
        let (rows, dropped) = (&self.claims, &self.dropped_claims);
        query
            .bind(column(rows, |(_, row)| row.key.get()))
            .bind(column(rows, |(place, _)| *place))
            .bind(column(rows, |(_, row)| row.claim.key.to_string()))
            .bind(column(rows, |(_, row)| row.claim.fingerprint.to_vec()))
            .bind(column(rows, |(_, row)| Uuid::from_bytes(*row.owner.as_bytes())))
            .bind(column(rows, |(_, row)| row.in_flight_until.map(Instant)))
            .bind(column(rows, |(_, row)| row.entry.map(uuid)))
            .bind(column(dropped, |(_, key, _)| key.get()))
            .bind(column(dropped, |(place, ..)| *place))
            .bind(column(dropped, |(.., claim)| *claim))
    }
}

fn bind_notes<'q, 'a>(query: Query<'q>, notes: impl Iterator<Item = &'a Note>) -> Query<'q> {
    // A map of texts is always JSON.
    let json = |note: &Note| serde_json::to_string(&note.labels).unwrap_or_else(|_| "{}".to_owned());
    let (labels, references): (Vec<_>, Vec<_>) = notes.map(|note| (json(note), note.reference.as_deref())).unzip();
    query.bind(labels).bind(references)
}

fn column<'a, R, T>(rows: &'a [R], cell: impl Fn(&'a R) -> T) -> Vec<T> {
    rows.iter().map(cell).collect()
}

fn state(state: HoldState) -> &'static str {
    match state {
        HoldState::Live => "live",
        HoldState::Over => "over",
        HoldState::Charged => "charged",
    }
}

fn uuid(id: EntryId) -> Uuid {
    Uuid::from_bytes(*id.as_bytes())
}

/// What a version grows by: no two histories that part ways are likely to meet again in one number.
pub(super) fn step() -> i64 {
    let [.., high, middle, low] = Uuid::now_v7().into_bytes();
    1 + i64::from(u32::from_be_bytes([0, high, middle, low]))
}
