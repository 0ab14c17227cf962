//! Writing back what a book changed: one statement, on condition that what the decisions were based on still stands.
//!
//! While the statement waits for the account's row, only that row is read anew: everything else it reads is as it was
//! when the statement began. So every part of it is gated on the accounts whose version stood, nothing is summed up,
//! and an id that is there already makes the whole of it fail.

use std::collections::{HashMap, HashSet};
use std::sync::OnceLock;

use jiff::Timestamp;
use sqlx::postgres::PgRow;
use uuid::Uuid;

use super::connection::Query;
use super::decode::Cells;
use super::known::Basis;
use super::layout::{Layout, Sql};
use super::types::Instant;
use crate::ledger::{Changes, ClaimRow, HoldRow, HoldState, OnExpiry};
use crate::store::plain::next_place;
use crate::{AccountId, Balance, Entry, EntryId, KeyId, Period};

/// The texts of the write, one for each choice of its parts, made when it is first needed.
pub(super) struct Writes {
    texts: [OnceLock<Sql>; 64],
}

/// The parts of a write beside the accounts, in the order of their parameters.
const PARTS: [&str; 6] = [
    "balances AS (INSERT INTO {balances} (key_id, account_id, period, spent, held, since) \
     SELECT w.* FROM unnest($?::int8[], $?::text[], $?::text[], $?::int8[], $?::int8[], $?::timestamptz[]) \
     w (key_id, account_id, period, spent, held, since) WHERE w.account_id IN (SELECT id FROM stands) \
     ON CONFLICT (key_id, account_id) DO UPDATE SET period = excluded.period, \
     spent = excluded.spent, held = excluded.held, since = excluded.since)",
    "new_holds AS (INSERT INTO {holds} (id, account_id, key_id, path, amount, created_at, expires_at, on_expiry, \
     labels, reference, state) SELECT w.id, w.account_id, w.key_id, w.path::int8[], w.amount, w.created_at, \
     w.expires_at, w.on_expiry, w.labels::jsonb, w.reference, w.state FROM unnest($?::uuid[], $?::text[], $?::int8[], \
     $?::text[], $?::int8[], $?::timestamptz[], $?::timestamptz[], $?::text[], $?::text[], $?::text[], $?::text[]) \
     w (id, account_id, key_id, path, amount, created_at, expires_at, on_expiry, labels, reference, state) \
     WHERE w.account_id IN (SELECT id FROM stands))",
    "changed_holds AS (UPDATE {holds} h SET expires_at = w.expires_at, state = w.state \
     FROM (SELECT w.*, h.place FROM unnest($?::uuid[], $?::text[], $?::timestamptz[], $?::text[]) \
     w (id, account_id, expires_at, state) CROSS JOIN LATERAL (SELECT h.ctid AS place FROM {holds} h \
     WHERE h.id = w.id OFFSET 0) h WHERE w.account_id IN (SELECT id FROM stands)) w WHERE h.ctid = w.place)",
    "entries AS (INSERT INTO {entries} (id, seq, account_id, key_id, kind, amount, at, counts_at, refunds, labels, \
     reference) SELECT w.id, w.seq, w.account_id, w.key_id, w.kind, w.amount, w.at, w.counts_at, w.refunds, \
     w.labels::jsonb, w.reference FROM unnest($?::uuid[], $?::int8[], $?::text[], $?::int8[], $?::text[], $?::int8[], \
     $?::timestamptz[], $?::timestamptz[], $?::uuid[], $?::text[], $?::text[]) \
     w (id, seq, account_id, key_id, kind, amount, at, counts_at, refunds, labels, reference) \
     WHERE w.account_id IN (SELECT id FROM stands))",
    "claims AS (INSERT INTO {claims} (key_id, idempotency_key, fingerprint, owner, in_flight_until, entry) \
     SELECT w.key_id, w.idempotency_key, w.fingerprint, w.owner, w.in_flight_until, w.entry \
     FROM unnest($?::int8[], $?::text[], $?::text[], $?::bytea[], $?::uuid[], $?::timestamptz[], $?::uuid[]) \
     w (key_id, account_id, idempotency_key, fingerprint, owner, in_flight_until, entry) \
     WHERE w.account_id IN (SELECT id FROM stands) ON CONFLICT (key_id, idempotency_key) DO UPDATE SET \
     fingerprint = excluded.fingerprint, owner = excluded.owner, in_flight_until = excluded.in_flight_until, \
     entry = excluded.entry)",
    "dropped_claims AS (DELETE FROM {claims} c USING unnest($?::int8[], $?::text[], $?::text[]) \
     w (key_id, account_id, idempotency_key) WHERE c.key_id = w.key_id AND c.idempotency_key = w.idempotency_key \
     AND w.account_id IN (SELECT id FROM stands))",
];

/// Accounts are locked, and then found by their place; one that somebody else has locked does not stand: rows that have moved on since the
/// statement began have another version anyway. Those of which nothing changed
/// are only looked at.
const HEAD: &str = "WITH moved AS (SELECT w.account_id FROM unnest($1::text[], $2::int8[], $3::int4[]) \
    w (account_id, key_id, stamp) LEFT JOIN LATERAL \
    (SELECT k.xmin AS stamp FROM {keys} k WHERE k.{k.id} = w.key_id OFFSET 0) k ON true \
    WHERE k.stamp IS DISTINCT FROM w.stamp), \
    given AS (SELECT w.id COLLATE \"C\" AS id, w.version, w.changed_at, w.spent, w.held, w.since, w.next_expiry, w.last_entry \
    FROM unnest($4::text[], $5::int8[], $6::timestamptz[], $7::int8[], $8::int8[], $9::timestamptz[], \
    $10::timestamptz[], $11::int8[]) w (id, version, changed_at, spent, held, since, next_expiry, last_entry) \
    WHERE w.id NOT IN (SELECT account_id FROM moved) ORDER BY 1), \
    locked AS (SELECT w.*, a.place FROM given w CROSS JOIN LATERAL (SELECT a.ctid AS place FROM {accounts} a \
    WHERE a.id = w.id AND a.version = w.version FOR NO KEY UPDATE SKIP LOCKED) a WHERE w.changed_at IS NOT NULL), \
    stands AS (UPDATE {accounts} a SET version = a.version + $12, changed_at = w.changed_at, spent = w.spent, \
    held = w.held, since = w.since, next_expiry = w.next_expiry, last_entry = w.last_entry FROM locked w \
    WHERE a.ctid = w.place AND a.version = w.version RETURNING a.id)";

const TAIL: &str = " SELECT id FROM stands UNION ALL SELECT a.id FROM given w CROSS JOIN LATERAL (SELECT a.id \
    FROM {accounts} a WHERE a.id = w.id AND a.version = w.version OFFSET 0) a WHERE w.changed_at IS NULL";

/// What is to be written, and what it was decided by.
pub(super) struct Write<'a> {
    pub(super) bases: &'a [Basis],
    pub(super) changes: &'a Changes,
    /// Whose the keys are, where the changes do not say it.
    pub(super) owners: &'a HashMap<KeyId, AccountId>,
    /// What the version of every changed account grows by.
    pub(super) step: i64,
}

impl Writes {
    pub(super) fn new() -> Self {
        Self { texts: [const { OnceLock::new() }; 64] }
    }

    fn text(&self, layout: &Layout, parts: usize) -> Sql {
        let make = || {
            let chosen = PARTS.iter().enumerate().filter(|(place, _)| parts & (1 << place) != 0);
            let mut text = HEAD.to_owned();
            for (_, part) in chosen {
                text.push_str(", ");
                text.push_str(part);
            }
            text.push_str(TAIL);
            let mut numbered = String::with_capacity(text.len());
            let mut number = 12;
            for (place, piece) in text.split("$?").enumerate() {
                if place > 0 {
                    number += 1;
                    numbered.push_str(&format!("${number}"));
                }
                numbered.push_str(piece);
            }
            layout.sql(&numbered)
        };
        self.texts.get(parts).map_or_else(make, |text| text.get_or_init(make).clone())
    }

    /// The statement; its rows are read by [`stood`].
    pub(super) fn query<'q>(&self, layout: &Layout, write: &Write<'_>) -> Query<'q> {
        let Write { bases, changes, owners, step } = write;
        let holds = [!changes.new_holds.is_empty(), !changes.changed_holds.is_empty()];
        let chosen = [
            !changes.balances.is_empty(),
            holds[0],
            holds[1],
            !changes.entries.is_empty(),
            !changes.claims.is_empty(),
            !changes.dropped_claims.is_empty(),
        ];
        let parts = chosen.iter().enumerate().fold(0, |parts, (place, part)| parts | usize::from(*part) << place);
        let mut query = bind_head(self.text(layout, parts).query(), bases, changes, *step);
        let owner = |key: &KeyId| owners.get(key).map_or_else(String::new, |account| account.as_str().to_owned());
        if chosen[0] {
            query = bind_balances(query, &changes.balances, owner);
        }
        if chosen[1] {
            query = bind_new_holds(query, &changes.new_holds);
        }
        if chosen[2] {
            let holds = &changes.changed_holds;
            query = query
                .bind(column(holds, |hold| Uuid::from_bytes(*hold.id.as_bytes())))
                .bind(column(holds, |hold| text(&hold.account)))
                .bind(column(holds, |hold| Instant(hold.expires_at)))
                .bind(column(holds, |hold| state(hold.state)));
        }
        if chosen[3] {
            query = bind_entries(query, bases, changes);
        }
        if chosen[4] {
            query = bind_claims(query, &changes.claims, owner);
        }
        if chosen[5] {
            let claims = &changes.dropped_claims;
            query = query
                .bind(column(claims, |(key, _)| key.get()))
                .bind(column(claims, |(key, _)| owner(key)))
                .bind(column(claims, |(_, claim)| claim.to_string()));
        }
        query
    }
}

/// The accounts whose basis stood.
pub(super) fn stood(rows: &[PgRow]) -> sqlx::Result<HashSet<AccountId>> {
    rows.iter().map(|row| Cells::of(row).account_id()).collect()
}

/// No live hold of the account runs out before this.
pub(super) fn next_expiry(basis: &Basis, changes: &Changes) -> Option<Timestamp> {
    let holds = changes.new_holds.iter().chain(&changes.changed_holds);
    let live = holds.filter(|hold| hold.account == basis.account && hold.state == HoldState::Live);
    live.map(|hold| hold.expires_at).chain(basis.next_expiry).min()
}

fn entries_of<'a>(basis: &'a Basis, changes: &'a Changes) -> impl Iterator<Item = &'a Entry> {
    changes.entries.iter().filter(|entry| entry.account == basis.account)
}

/// Where the entries of an account stand, in their order.
pub(super) fn places<'a>(basis: &'a Basis, changes: &'a Changes) -> impl Iterator<Item = i64> + use<'a> {
    entries_of(basis, changes).scan(basis.last_entry, |last, entry| {
        *last = next_place(*last, entry.at);
        Some(*last)
    })
}

fn bind_head<'q>(query: Query<'q>, bases: &[Basis], changes: &Changes, step: i64) -> Query<'q> {
    let stamps: Vec<_> = bases
        .iter()
        .flat_map(|basis| basis.keys.iter().map(move |(key, stamp)| (&basis.account, key, stamp)))
        .collect();
    let changed: HashMap<_, _> = changes.accounts.iter().map(|(account, at)| (&account.id, (account, *at))).collect();
    let of = |basis: &Basis| changed.get(&basis.account).copied();
    let balance = |basis: &Basis| of(basis).map(|(account, _)| account.balance);
    query
        .bind(column(&stamps, |(account, ..)| text(account)))
        .bind(column(&stamps, |(_, key, _)| key.get()))
        .bind(column(&stamps, |(.., stamp)| **stamp))
        .bind(column(bases, |basis| text(&basis.account)))
        .bind(column(bases, |basis| basis.version))
        .bind(column(bases, |basis| of(basis).map(|(_, at)| Instant(at))))
        .bind(column(bases, |basis| balance(basis).map(|balance| balance.spent.as_micros())))
        .bind(column(bases, |basis| balance(basis).map(|balance| balance.held.as_micros())))
        .bind(column(bases, |basis| balance(basis).map(|balance| Instant(balance.since))))
        .bind(column(bases, |basis| next_expiry(basis, changes).map(Instant)))
        .bind(column(bases, |basis| places(basis, changes).last().unwrap_or(basis.last_entry)))
        .bind(step)
}

fn bind_balances<'q>(
    query: Query<'q>,
    balances: &[(KeyId, Period, Balance)],
    owner: impl Fn(&KeyId) -> String,
) -> Query<'q> {
    query
        .bind(column(balances, |(key, ..)| key.get()))
        .bind(column(balances, |(key, ..)| owner(key)))
        .bind(column(balances, |(_, period, _)| period.as_str()))
        .bind(column(balances, |(.., balance)| balance.spent.as_micros()))
        .bind(column(balances, |(.., balance)| balance.held.as_micros()))
        .bind(column(balances, |(.., balance)| Instant(balance.since)))
}

fn bind_new_holds<'q>(query: Query<'q>, holds: &[HoldRow]) -> Query<'q> {
    let path = |hold: &HoldRow| {
        let ids: Vec<_> = hold.path.iter().map(ToString::to_string).collect();
        format!("{{{}}}", ids.join(","))
    };
    let on_expiry = |hold: &HoldRow| match hold.on_expiry {
        OnExpiry::Release => "release",
        OnExpiry::Charge => "charge",
    };
    query
        .bind(column(holds, |hold| Uuid::from_bytes(*hold.id.as_bytes())))
        .bind(column(holds, |hold| text(&hold.account)))
        .bind(column(holds, |hold| hold.key.get()))
        .bind(column(holds, path))
        .bind(column(holds, |hold| hold.amount.as_micros()))
        .bind(column(holds, |hold| Instant(hold.created_at)))
        .bind(column(holds, |hold| Instant(hold.expires_at)))
        .bind(column(holds, on_expiry))
        .bind(column(holds, |hold| labels(&hold.note.labels)))
        .bind(column(holds, |hold| hold.note.reference.clone()))
        .bind(column(holds, |hold| state(hold.state)))
}

fn bind_entries<'q>(query: Query<'q>, bases: &[Basis], changes: &Changes) -> Query<'q> {
    let mut entries = Vec::with_capacity(changes.entries.len());
    let mut seqs = Vec::with_capacity(changes.entries.len());
    for basis in bases {
        entries.extend(entries_of(basis, changes));
        seqs.extend(places(basis, changes));
    }
    query
        .bind(column(&entries, |entry| uuid(entry.id)))
        .bind(seqs)
        .bind(column(&entries, |entry| text(&entry.account)))
        .bind(column(&entries, |entry| entry.key.get()))
        .bind(column(&entries, |entry| entry.kind.as_str()))
        .bind(column(&entries, |entry| entry.amount.as_micros()))
        .bind(column(&entries, |entry| Instant(entry.at)))
        .bind(column(&entries, |entry| Instant(entry.counts_at)))
        .bind(column(&entries, |entry| entry.refunds.map(uuid)))
        .bind(column(&entries, |entry| labels(&entry.note.labels)))
        .bind(column(&entries, |entry| entry.note.reference.clone()))
}

fn bind_claims<'q>(query: Query<'q>, claims: &[ClaimRow], owner: impl Fn(&KeyId) -> String) -> Query<'q> {
    query
        .bind(column(claims, |row| row.key.get()))
        .bind(column(claims, |row| owner(&row.key)))
        .bind(column(claims, |row| row.claim.key.to_string()))
        .bind(column(claims, |row| row.claim.fingerprint.to_vec()))
        .bind(column(claims, |row| Uuid::from_bytes(*row.owner.as_bytes())))
        .bind(column(claims, |row| row.in_flight_until.map(Instant)))
        .bind(column(claims, |row| row.entry.map(uuid)))
}

fn column<R, T>(rows: &[R], cell: impl Fn(&R) -> T) -> Vec<T> {
    rows.iter().map(cell).collect()
}

fn text(account: &AccountId) -> String {
    account.as_str().to_owned()
}

fn labels(labels: &crate::Labels) -> String {
    // A map of texts is always JSON.
    serde_json::to_string(labels).unwrap_or_else(|_| "{}".to_owned())
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
