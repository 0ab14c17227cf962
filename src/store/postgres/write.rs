//! Writing back what a book changed: one statement, on condition that what the decisions were based on still stands.
//!
//! While the statement waits for the account's row, only that row is read anew: everything else it reads is as it was
//! when the statement began. So every part of it is gated on the accounts whose version stood, nothing is summed up,
//! and an id that is there already makes the whole of it fail.
//!
//! Rows travel as columns, one array each, and name their account by its place among those of the batch. Arrays are
//! taken apart in a list of columns (`SELECT unnest(..), unnest(..)`), row by row: as a table, `unnest(.., ..)` keeps
//! each of them whole in a store of its own first. What is gated asks by `(place IN (..)) IS TRUE`, which is looked up in
//! a hash table; a plain `IN` would become a join, and walk all accounts for each row.

use std::collections::HashMap;
use std::sync::OnceLock;

use jiff::Timestamp;
use sqlx::postgres::PgRow;
use uuid::Uuid;

use super::connection::Query;
use super::decode::Cells;
use super::error::corrupt;
use super::known::Basis;
use super::layout::{Layout, Sql};
use super::types::Instant;
use crate::ledger::{Changes, ClaimRow, HoldRow, HoldState, OnExpiry};
use crate::store::plain::next_place;
use crate::{AccountId, Balance, Entry, EntryId, KeyId, Note, Period};

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
    /// Whether holds and entries have labels, references or refunds.
    noted: bool,
    /// Claims, and accounts of which nothing changed.
    rare: bool,
}

/// Accounts are locked, and then found by their place; one that somebody else has locked does not stand: rows that have
/// moved on since the statement began have another version anyway.
const HEAD: &str = "WITH moved AS (SELECT w.account FROM (SELECT unnest($?::int8[]) AS key_id, \
    unnest($?::int4[]) AS stamp, unnest($?::int4[]) AS account OFFSET 0) w \
    WHERE (SELECT k.xmin FROM {keys} k WHERE k.{k.id} = w.key_id) IS DISTINCT FROM w.stamp), \
    given AS (SELECT w.* FROM (SELECT generate_subscripts({ids}, 1) AS place, unnest({ids}) COLLATE \"C\" AS id, \
    unnest($?::int8[]) AS version, unnest($?::timestamptz[]) AS changed_at, unnest($?::int8[]) AS spent, \
    unnest($?::int8[]) AS held, unnest($?::timestamptz[]) AS since, unnest($?::timestamptz[]) AS next_expiry, \
    unnest($?::int8[]) AS last_entry OFFSET 0) w WHERE (w.place IN (SELECT account FROM moved)) IS NOT TRUE), \
    locked AS (SELECT w.*, a.tid FROM given w CROSS JOIN LATERAL (SELECT a.ctid AS tid FROM {accounts} a \
    WHERE a.id = w.id AND a.version = w.version FOR NO KEY UPDATE SKIP LOCKED) a WHERE w.changed_at IS NOT NULL), \
    stands AS (UPDATE {accounts} a SET version = a.version + $?, changed_at = w.changed_at, spent = w.spent, \
    held = w.held, since = w.since, next_expiry = w.next_expiry, last_entry = w.last_entry FROM locked w \
    WHERE a.ctid = w.tid AND a.version = w.version RETURNING w.place)";

/// The accounts of the batch.
const IDS: &str = "$1::text[]";

/// What a row of a part is gated on.
const STANDS: &str = "(w.account IN (SELECT place FROM stands)) IS TRUE";

const BALANCES: &str = ", balances AS (INSERT INTO {balances} (key_id, account_id, period, spent, held, since) \
    SELECT w.key_id, ({ids})[w.account], w.period, w.spent, w.held, w.since FROM (SELECT unnest($?::int8[]) AS key_id, \
    unnest($?::int4[]) AS account, unnest($?::text[]) AS period, unnest($?::int8[]) AS spent, \
    unnest($?::int8[]) AS held, unnest($?::timestamptz[]) AS since OFFSET 0) w WHERE {stands} \
    ON CONFLICT (key_id, account_id) DO UPDATE SET period = excluded.period, \
    spent = excluded.spent, held = excluded.held, since = excluded.since)";

const NEW_HOLDS: &str = ", new_holds AS (INSERT INTO {holds} (id, account_id, key_id, path, amount, created_at, \
    expires_at, on_expiry, state, labels, reference) SELECT w.id, ({ids})[w.account], w.key_id, w.path::int8[], \
    w.amount, w.created_at, w.expires_at, w.on_expiry, w.state, {labels}, {reference} FROM (\
    SELECT unnest($?::uuid[]) AS id, unnest($?::int4[]) AS account, unnest($?::int8[]) AS key_id, \
    unnest($?::text[]) AS path, unnest($?::int8[]) AS amount, unnest($?::timestamptz[]) AS created_at, \
    unnest($?::timestamptz[]) AS expires_at, unnest($?::text[]) AS on_expiry, unnest($?::text[]) AS state{notes} \
    OFFSET 0) w WHERE {stands})";

const CHANGED_HOLDS: &str = ", changed_holds AS (UPDATE {holds} h SET expires_at = w.expires_at, state = w.state \
    FROM (SELECT w.*, h.tid FROM (SELECT unnest($?::uuid[]) AS id, unnest($?::int4[]) AS account, \
    unnest($?::timestamptz[]) AS expires_at, unnest($?::text[]) AS state OFFSET 0) w CROSS JOIN LATERAL \
    (SELECT h.ctid AS tid FROM {holds} h WHERE h.id = w.id OFFSET 0) h WHERE {stands}) w WHERE h.ctid = w.tid)";

const ENTRIES: &str = ", entries AS (INSERT INTO {entries} (id, seq, account_id, key_id, kind, amount, at, counts_at, \
    labels, reference, refunds) SELECT w.id, w.seq, ({ids})[w.account], w.key_id, w.kind, w.amount, w.at, \
    w.counts_at, {labels}, {reference}, {refunds} FROM (SELECT unnest($?::uuid[]) AS id, unnest($?::int8[]) AS seq, \
    unnest($?::int4[]) AS account, unnest($?::int8[]) AS key_id, unnest($?::text[]) AS kind, \
    unnest($?::int8[]) AS amount, unnest($?::timestamptz[]) AS at, unnest($?::timestamptz[]) AS counts_at{notes}\
    {refund_ids} OFFSET 0) w WHERE {stands})";

const CLAIMS: &str = ", claims AS (INSERT INTO {claims} (key_id, idempotency_key, fingerprint, owner, \
    in_flight_until, entry) SELECT w.key_id, w.idempotency_key, w.fingerprint, w.owner, w.in_flight_until, w.entry \
    FROM (SELECT unnest($?::int8[]) AS key_id, unnest($?::int4[]) AS account, unnest($?::text[]) AS idempotency_key, \
    unnest($?::bytea[]) AS fingerprint, unnest($?::uuid[]) AS owner, unnest($?::timestamptz[]) AS in_flight_until, \
    unnest($?::uuid[]) AS entry OFFSET 0) w WHERE {stands} ON CONFLICT (key_id, idempotency_key) DO UPDATE SET \
    fingerprint = excluded.fingerprint, owner = excluded.owner, in_flight_until = excluded.in_flight_until, \
    entry = excluded.entry), \
    dropped_claims AS (DELETE FROM {claims} c USING (SELECT w.*, c.tid FROM (SELECT unnest($?::int8[]) AS key_id, \
    unnest($?::int4[]) AS account, unnest($?::text[]) AS idempotency_key OFFSET 0) w CROSS JOIN LATERAL \
    (SELECT c.ctid AS tid FROM {claims} c WHERE c.key_id = w.key_id AND c.idempotency_key = w.idempotency_key \
    OFFSET 0) c WHERE {stands}) w WHERE c.ctid = w.tid)";

const TAIL: &str = " SELECT place FROM stands";

/// Accounts of which nothing changed are only looked at.
const LOOKED_AT: &str = " UNION ALL SELECT w.place FROM given w CROSS JOIN LATERAL (SELECT a.id FROM {accounts} a \
    WHERE a.id = w.id AND a.version = w.version OFFSET 0) a WHERE w.changed_at IS NULL";

/// What is to be written, and what it was decided by.
pub(super) struct Write<'a> {
    /// Each account once.
    pub(super) bases: &'a [Basis],
    pub(super) changes: &'a [&'a Changes],
    /// Whose the keys are. `None`: the changes are each of one account, in the order of the bases. The host may have moved
    /// a key, so that a batch has it in two accounts.
    pub(super) owners: Option<&'a Owners>,
    /// What the version of every changed account grows by.
    pub(super) step: i64,
}

/// By which account's version it is decided whether a row of a key is written.
pub(super) struct Owners {
    pub(super) balances: HashMap<KeyId, AccountId>,
    pub(super) claims: HashMap<KeyId, AccountId>,
}

impl Parts {
    fn number(self) -> usize {
        let Self { balances, new_holds, changed_holds, entries, noted, rare } = self;
        let parts = [balances, new_holds, changed_holds, entries, noted, rare];
        parts.iter().enumerate().fold(0, |number, (place, part)| number | usize::from(*part) << place)
    }

    fn text(self) -> String {
        let mut text = HEAD.to_owned();
        let parts = [
            (self.balances, BALANCES),
            (self.new_holds, NEW_HOLDS),
            (self.changed_holds, CHANGED_HOLDS),
            (self.entries, ENTRIES),
            (self.rare, CLAIMS),
            (true, TAIL),
            (self.rare, LOOKED_AT),
        ];
        parts.iter().filter(|(chosen, _)| *chosen).for_each(|(_, part)| text.push_str(part));
        let notes = match self.noted {
            true => [
                ("{labels}", "w.labels::jsonb"),
                ("{reference}", "w.reference"),
                ("{refunds}", "w.refunds"),
                ("{notes}", ", unnest($?::text[]) AS labels, unnest($?::text[]) AS reference"),
                ("{refund_ids}", ", unnest($?::uuid[]) AS refunds"),
            ],
            false => [
                ("{labels}", "'{}'::jsonb"),
                ("{reference}", "NULL"),
                ("{refunds}", "NULL"),
                ("{notes}", ""),
                ("{refund_ids}", ""),
            ],
        };
        for (name, sql) in notes.into_iter().chain([("{stands}", STANDS), ("{ids}", IDS)]) {
            text = text.replace(name, sql);
        }
        let mut numbered = String::with_capacity(text.len());
        for (place, piece) in text.split("$?").enumerate() {
            if place > 0 {
                numbered.push_str(&format!("${}", place + 1));
            }
            numbered.push_str(piece);
        }
        numbered
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
    pub(super) fn query<'q>(&self, layout: &Layout, write: &Write<'_>) -> sqlx::Result<Query<'q>> {
        let rows = Rows::of(write);
        if !rows.are_of_the_batch() {
            return Err(corrupt("a row is to be written of an account that is not of the batch"));
        }
        let parts = rows.parts();
        let query = rows.bind_head(self.text(layout, parts).query(), write.step);
        let query = if parts.balances { rows.bind_balances(query) } else { query };
        let query = if parts.new_holds { rows.bind_new_holds(query, parts.noted) } else { query };
        let query = if parts.changed_holds { rows.bind_changed_holds(query) } else { query };
        let query = if parts.entries { rows.bind_entries(query, parts.noted) } else { query };
        Ok(if parts.rare { rows.bind_claims(query) } else { query })
    }
}

/// For each account, by its place, whether its basis stood.
pub(super) fn stood(rows: &[PgRow], bases: &[Basis]) -> sqlx::Result<Vec<bool>> {
    let mut stood = vec![false; bases.len()];
    for row in rows {
        let place: i32 = Cells::of(row).read()?;
        if let Some(slot) = usize::try_from(place).ok().and_then(|place| stood.get_mut(place.checked_sub(1)?)) {
            *slot = true;
        }
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
    balances: Vec<(i32, &'a (KeyId, Period, Balance))>,
    new_holds: Vec<(i32, &'a HoldRow)>,
    changed_holds: Vec<(i32, &'a HoldRow)>,
    /// With their places in the ledger.
    entries: Vec<(i32, &'a Entry, i64)>,
    claims: Vec<(i32, &'a ClaimRow)>,
    dropped_claims: Vec<(i32, KeyId, &'a str)>,
}

impl<'a> Rows<'a> {
    fn of(write: &Write<'a>) -> Self {
        let Write { bases, changes, owners, .. } = *write;
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
        for (changes, own) in changes.iter().zip(1..) {
            let of_key = |key: &KeyId, owner: fn(&Owners) -> &HashMap<KeyId, AccountId>| match owners {
                Some(owners) => owner(owners).get(key).map_or(0, of),
                None => own,
            };
            let of_balance = |key: &KeyId| of_key(key, |owners| &owners.balances);
            let of_claim = |key: &KeyId| of_key(key, |owners| &owners.claims);
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
            rows.balances.extend(changes.balances.iter().map(|row| (of_balance(&row.0), row)));
            rows.new_holds.extend(changes.new_holds.iter().map(|hold| (of(&hold.account), hold)));
            rows.changed_holds.extend(changes.changed_holds.iter().map(|hold| (of(&hold.account), hold)));
            rows.claims.extend(changes.claims.iter().map(|row| (of_claim(&row.key), row)));
            let dropped = changes.dropped_claims.iter().map(|(key, claim)| (of_claim(key), *key, &**claim));
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
        let is_noted = |note: &Note| !note.labels.is_empty() || note.reference.is_some();
        Parts {
            balances: !self.balances.is_empty(),
            new_holds: !self.new_holds.is_empty(),
            changed_holds: !self.changed_holds.is_empty(),
            entries: !self.entries.is_empty(),
            noted: self.new_holds.iter().any(|(_, hold)| is_noted(&hold.note))
                || self.entries.iter().any(|(_, entry, _)| is_noted(&entry.note) || entry.refunds.is_some()),
            rare: !self.claims.is_empty()
                || !self.dropped_claims.is_empty()
                || self.accounts.iter().any(Option::is_none),
        }
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
            .bind(column(&self.next_expiries, |next| next.map(Instant)))
            .bind(&self.last_entries)
            .bind(step)
    }

    fn bind_balances<'q>(&self, query: Query<'q>) -> Query<'q> {
        let rows = &self.balances;
        query
            .bind(column(rows, |(_, (key, ..))| key.get()))
            .bind(column(rows, |(place, _)| *place))
            .bind(column(rows, |(_, (_, period, _))| period.as_str()))
            .bind(column(rows, |(_, (.., balance))| balance.spent.as_micros()))
            .bind(column(rows, |(_, (.., balance))| balance.held.as_micros()))
            .bind(column(rows, |(_, (.., balance))| Instant(balance.since)))
    }

    fn bind_new_holds<'q>(&self, query: Query<'q>, noted: bool) -> Query<'q> {
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
            .bind(column(rows, |(_, hold)| path(hold)))
            .bind(column(rows, |(_, hold)| hold.amount.as_micros()))
            .bind(column(rows, |(_, hold)| Instant(hold.created_at)))
            .bind(column(rows, |(_, hold)| Instant(hold.expires_at)))
            .bind(column(rows, |(_, hold)| on_expiry(hold)))
            .bind(column(rows, |(_, hold)| state(hold.state)));
        if noted { bind_notes(query, rows.iter().map(|(_, hold)| &hold.note)) } else { query }
    }

    fn bind_changed_holds<'q>(&self, query: Query<'q>) -> Query<'q> {
        let rows = &self.changed_holds;
        query
            .bind(column(rows, |(_, hold)| Uuid::from_bytes(*hold.id.as_bytes())))
            .bind(column(rows, |(place, _)| *place))
            .bind(column(rows, |(_, hold)| Instant(hold.expires_at)))
            .bind(column(rows, |(_, hold)| state(hold.state)))
    }

    fn bind_entries<'q>(&self, query: Query<'q>, noted: bool) -> Query<'q> {
        let rows = &self.entries;
        let query = query
            .bind(column(rows, |(_, entry, _)| uuid(entry.id)))
            .bind(column(rows, |(.., seq)| *seq))
            .bind(column(rows, |(place, ..)| *place))
            .bind(column(rows, |(_, entry, _)| entry.key.get()))
            .bind(column(rows, |(_, entry, _)| entry.kind.as_str()))
            .bind(column(rows, |(_, entry, _)| entry.amount.as_micros()))
            .bind(column(rows, |(_, entry, _)| Instant(entry.at)))
            .bind(column(rows, |(_, entry, _)| Instant(entry.counts_at)));
        if !noted {
            return query;
        }
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
