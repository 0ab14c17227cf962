//! Writes the changes of a book in one statement, on condition that the expected versions are unchanged.
//!
//! While the statement waits for an account's row, only that row is read again. Everything else that it reads is as it
//! was when the statement began. So every part of it depends on the accounts whose version was unchanged, and nothing
//! is summed up. An id that exists already makes the whole statement fail.
//!
//! Rows are sent as columns, one array each. They name their account by its place in the batch. A row is addressed by a
//! number made in a list of columns (`SELECT generate_subscripts(..), unnest(..)`). As a table function, `unnest(..,
//! ..)` would first keep each array whole in a store of its own.

use std::collections::HashMap;
use std::sync::{PoisonError, RwLock};

use jiff::Timestamp;
use sqlx::postgres::PgRow;
use uuid::Uuid;

use super::connection::Query;
use super::decode::Cells;
use super::error::{Result, invalid_row};
use super::names::Sql;
use super::params::Params;
use super::schema::Schema;
use super::types::Instant;
use super::validator::Expected;
use crate::ledger::{BalanceRow, HoldRow, HoldState, IdempotencyRow, OnExpiry, WriteSet};
use crate::model::{AccountId, Balance, Entry, EntryId, EntryKind, KeyId, Labels};
use crate::store::fast_path::next_seq;
use crate::store::records::{hold_state, more_spent, on_expiry};

/// The texts of the write, each made when it is first needed. There is one for each combination of its parts and of its
/// constants in place of parameters.
#[derive(Default)]
pub(super) struct WriteSql(RwLock<HashMap<(usize, Vec<&'static str>), Sql>>);

const HEAD: &str = include_str!("sql/write/head.sql");
const UNCHANGED: &str = include_str!("sql/write/unchanged.sql");

/// The rows of one table. A batch without such rows has no such part in its text.
struct Part {
    name: &'static str,
    key: &'static [&'static str],
    text: &'static str,
}

const PARTS: [Part; 6] = [
    Part {
        name: "balances",
        key: &["key_id", "period"],
        text: include_str!("sql/write/balances.sql"),
    },
    Part { name: "new_holds", key: &["id"], text: include_str!("sql/write/new_holds.sql") },
    Part { name: "changed_holds", key: &["id"], text: include_str!("sql/write/changed_holds.sql") },
    Part { name: "entries", key: &["id"], text: include_str!("sql/write/entries.sql") },
    Part {
        name: "claims",
        key: &["key_id", "idempotency_key"],
        text: include_str!("sql/write/claims.sql"),
    },
    Part { name: "dropped_claims", key: &[], text: include_str!("sql/write/dropped_claims.sql") },
];

/// What is to be written, and the versions it was decided by.
pub(super) struct Write<'a> {
    /// Each account once, all of one incarnation of the server.
    pub(super) expected: &'a [Expected],
    pub(super) changes: &'a [&'a WriteSet],
    /// The step by which the version of every changed account grows.
    pub(super) step: i64,
    /// When it was decided, by the estimate of the server's clock.
    pub(super) decided_at: Option<Timestamp>,
}

impl WriteSql {
    /// Returns the statement; [`applied`] reads its rows.
    pub(super) fn query<'q>(&self, schema: &Schema, write: &Write<'_>) -> Result<Query<'q>> {
        let rows = Rows::new(write);
        if !rows.are_in_batch() {
            return Err(invalid_row(
                "a row is to be written for an account that is not in the batch",
            ));
        }
        let params = rows.params(write);
        let has_unchanged = rows.accounts.iter().any(Option::is_none);
        let have_more = rows.have_more();
        let parts = PARTS.iter().zip(2..).filter(|(part, _)| params.has_rows(part.name));
        let first = usize::from(has_unchanged) | usize::from(have_more) << 1;
        let number = parts.fold(first, |number, (_, place)| number | 1 << place);
        let choice = (number, params.variant().to_vec());
        let cached = self.0.read().unwrap_or_else(PoisonError::into_inner).get(&choice).cloned();
        let text = cached.unwrap_or_else(|| {
            let mut texts = self.0.write().unwrap_or_else(PoisonError::into_inner);
            texts
                .entry(choice)
                .or_insert_with(|| schema.sql(&text(&params, has_unchanged, have_more)))
                .clone()
        });
        params.query(&text)
    }
}

fn text(params: &Params, has_unchanged: bool, have_more: bool) -> String {
    let more = if have_more { " more_spent = {more_spent}[w.place]::jsonb," } else { "" };
    let head = HEAD.replace("{unchanged}", if has_unchanged { UNCHANGED } else { "" });
    let mut text = params.fill(&head.replace("{more_spent}", more));
    for Part { name, key, text: part } in PARTS.iter().filter(|part| params.has_rows(part.name)) {
        text.push_str(&format!(", {name} AS (\n{})", params.fill_rows(name, key, part)));
    }
    text + "SELECT ARRAY(SELECT place FROM conflicted), {server_time}"
}

/// Returns for each account, by its place, whether its version was unchanged.
pub(super) fn applied(rows: &[PgRow], accounts: usize) -> Result<Vec<bool>> {
    let mut applied = vec![true; accounts];
    let row = rows.first().ok_or_else(|| invalid_row("a write returned no row"))?;
    for place in Cells::new(row).read::<Vec<i32>>()? {
        let slot =
            usize::try_from(place).ok().and_then(|place| applied.get_mut(place.checked_sub(1)?));
        *slot
            .ok_or_else(|| invalid_row("a write returned an account that is not in the batch"))? =
            false;
    }
    Ok(applied)
}

/// The rows to be sent, each with the place of its account, counted from 1; 0 for an account that is not in the batch.
struct Rows<'a> {
    expected: &'a [Expected],
    /// The new balance of each account and the time of its change; `None` if nothing changes.
    accounts: Vec<Option<(Balance, Timestamp)>>,
    next_expiries: Vec<Option<Timestamp>>,
    last_entries: Vec<i64>,
    balances: Vec<(i32, &'a BalanceRow)>,
    new_holds: Vec<(i32, &'a HoldRow)>,
    changed_holds: Vec<(i32, &'a HoldRow)>,
    /// Each with its `seq`.
    entries: Vec<(i32, (&'a Entry, i64))>,
    claims: Vec<(i32, &'a IdempotencyRow)>,
    dropped_claims: Vec<(i32, (KeyId, &'a str))>,
}

impl<'a> Rows<'a> {
    fn new(write: &Write<'a>) -> Self {
        let Write { expected, changes, .. } = *write;
        let places: HashMap<&AccountId, i32> =
            expected.iter().map(|expected| &expected.row.account.id).zip(1..).collect();
        let place_of = |account: &AccountId| places.get(account).copied().unwrap_or(0);
        let slot = |place: i32| usize::try_from(place).unwrap_or(0).wrapping_sub(1);
        let mut rows = Self {
            expected,
            accounts: vec![None; expected.len()],
            next_expiries: expected.iter().map(|expected| expected.row.next_expiry).collect(),
            last_entries: expected.iter().map(|expected| expected.row.last_entry).collect(),
            balances: Vec::new(),
            new_holds: Vec::new(),
            changed_holds: Vec::new(),
            entries: Vec::new(),
            claims: Vec::new(),
            dropped_claims: Vec::new(),
        };
        for changes in changes {
            for (account, at) in &changes.accounts {
                if let Some(changed) = rows.accounts.get_mut(slot(place_of(&account.id))) {
                    *changed = Some((account.balance, *at));
                }
            }
            for hold in changes.new_holds.iter().chain(&changes.changed_holds) {
                if let Some(next) = rows.next_expiries.get_mut(slot(place_of(&hold.account)))
                    && hold.state == HoldState::Live
                {
                    *next = Some(next.map_or(hold.expires_at, |next| next.min(hold.expires_at)));
                }
            }
            for entry in &changes.entries {
                let place = place_of(&entry.account);
                if let Some(last) = rows.last_entries.get_mut(slot(place)) {
                    *last = next_seq(*last, entry.at);
                    rows.entries.push((place, (entry, *last)));
                }
            }
            rows.balances.extend(changes.balances.iter().map(|row| (place_of(&row.account), row)));
            rows.new_holds
                .extend(changes.new_holds.iter().map(|hold| (place_of(&hold.account), hold)));
            rows.changed_holds
                .extend(changes.changed_holds.iter().map(|hold| (place_of(&hold.account), hold)));
            rows.claims
                .extend(changes.claims.iter().map(|(account, row)| (place_of(account), row)));
            let dropped = changes
                .dropped_claims
                .iter()
                .map(|(account, key, claim)| (place_of(account), (*key, &**claim)));
            rows.dropped_claims.extend(dropped);
        }
        rows
    }

    /// Returns whether an account has several limits.
    fn have_more(&self) -> bool {
        self.accounts.iter().flatten().any(|(balance, _)| balance.more().next().is_some())
    }

    /// Returns whether all rows belong to accounts of the batch. A row of another account would not be written, and no
    /// error would report it.
    fn are_in_batch(&self) -> bool {
        let places =
            self.balances.iter().map(|row| row.0).chain(self.entries.iter().map(|row| row.0));
        let places =
            places.chain(self.new_holds.iter().chain(&self.changed_holds).map(|row| row.0));
        let mut places = places.chain(self.claims.iter().map(|row| row.0));
        places.all(|place| place != 0) && self.dropped_claims.iter().all(|row| row.0 != 0)
    }

    /// Returns the columns of all rows: their names and their cells.
    fn params(&self, write: &Write<'_>) -> Params {
        let mut params = Params::default();
        let keys = || {
            let accounts = self.expected.iter().zip(1_i32..);
            accounts.flat_map(|(expected, place)| {
                expected.keys.iter().map(move |(key, version)| (place, *key, *version))
            })
        };
        let accounts = |cell: fn(&Balance, Timestamp) -> i64| {
            self.accounts
                .iter()
                .map(|changed| changed.map(|(balance, at)| cell(&balance, at)))
                .collect()
        };
        let instants = |cell: fn(&Balance, Timestamp) -> Timestamp| {
            self.accounts
                .iter()
                .map(|changed| changed.map(|(balance, at)| Instant(cell(&balance, at))))
                .collect()
        };
        params.value("step", write.step);
        params.value("decided_at", write.decided_at.map(Instant));
        params.value(
            "incarnation",
            self.expected.first().and_then(|expected| expected.epoch).map(Instant),
        );
        params.array(
            "account",
            self.expected.iter().map(|expected| expected.row.account.id.as_str()).collect(),
        );
        params
            .array("version", self.expected.iter().map(|expected| expected.row.version).collect());
        params.array("key", keys().map(|(_, key, _)| key.get()).collect());
        params.array("key_version", keys().map(|(.., version)| version).collect());
        params.array("key_account", keys().map(|(place, ..)| place).collect());
        params.array("at", instants(|_, at| at));
        params.array("spent", accounts(|balance, _| balance.spent().as_micros()));
        params.array("held", accounts(|balance, _| balance.held.as_micros()));
        params.array("since", instants(|balance, _| balance.since()));
        if self.have_more() {
            let more = self.accounts.iter().map(|changed| more_spent(&changed.as_ref()?.0));
            params.array("more_spent", more.collect());
        }
        // No instant is sent as the last one, which is infinity.
        let next = self.next_expiries.iter().map(|next| Instant(next.unwrap_or(Timestamp::MAX)));
        params.array("next_expiry", next.collect());
        params.array("last_entry", self.last_entries.clone());
        // Most rows have the instant at which their account is changed.
        let is_now = |place: i32, at: Timestamp| {
            let account = usize::try_from(place)
                .ok()
                .and_then(|place| self.accounts.get(place.checked_sub(1)?));
            account.copied().flatten().is_some_and(|(_, now)| now == at)
        };
        params
            .rows("balances", &self.balances)
            .account("account_id")
            .column("key_id", |row| row.key.get())
            .column("period", |row| row.balance.period().as_str())
            .column("spent", |row| row.balance.spent().as_micros())
            .column("held", |row| row.balance.held.as_micros())
            .column("since", |row| Instant(row.balance.since()))
            .constant_if("more_spent", "NULL::jsonb", |_, row| row.balance.more().next().is_none())
            .or_cast("jsonb", |row| more_spent(&row.balance));
        params
            .rows("new_holds", &self.new_holds)
            .account("account_id")
            .column("id", |hold| Uuid::from_bytes(*hold.id.as_bytes()))
            .column("key_id", |hold| hold.key.get())
            .constant_if("path", "ARRAY[{=key_id}]", |_, hold| hold.path == [hold.key])
            .or_cast("int8[]", |hold| path(hold))
            .column("amount", |hold| hold.amount.as_micros())
            .constant_if("created_at", NOW, |place, hold| is_now(place, hold.created_at))
            .or(|hold| Instant(hold.created_at))
            .column("expires_at", |hold| Instant(hold.expires_at))
            .constant_if("on_expiry", "'release'", |_, hold| hold.on_expiry == OnExpiry::Release)
            .or(|hold| on_expiry(hold.on_expiry))
            .constant_if("state", "'live'", |_, hold| hold.state == HoldState::Live)
            .or(|hold| hold_state(hold.state))
            .constant_if("labels", NO_LABELS, |_, hold| hold.note.labels.is_empty())
            .or_cast("jsonb", |hold| json(&hold.note.labels))
            .constant_if("reference", "NULL", |_, hold| hold.note.reference.is_none())
            .or(|hold| hold.note.reference.as_deref());
        params
            .rows("changed_holds", &self.changed_holds)
            .column("id", |hold| Uuid::from_bytes(*hold.id.as_bytes()))
            // The expiry of a hold means nothing once the hold has ended.
            .constant_if("expires_at", "h.expires_at", |_, hold| hold.state != HoldState::Live)
            .or(|hold| Instant(hold.expires_at))
            .constant_if("state", "'ended'", |_, hold| hold.state == HoldState::Ended)
            .or(|hold| hold_state(hold.state));
        params
            .rows("entries", &self.entries)
            .account("account_id")
            .column("id", |(entry, _)| uuid(entry.id))
            .column("seq", |(_, seq)| *seq)
            .optional("key_id", |(entry, _)| entry.key.map(KeyId::get))
            .constant_if("kind", "'pay'", |_, (entry, _)| entry.kind == EntryKind::Pay)
            .or_constant_if("'settle'", |_, (entry, _)| entry.kind == EntryKind::Settle)
            .or(|(entry, _)| entry.kind.as_str())
            .column("amount", |(entry, _)| entry.amount.as_micros())
            .constant_if("at", NOW, |place, (entry, _)| is_now(place, entry.at))
            .or(|(entry, _)| Instant(entry.at))
            .constant_if("counts_at", NOW, |place, (entry, _)| is_now(place, entry.counts_at))
            .or(|(entry, _)| Instant(entry.counts_at))
            .constant_if("labels", NO_LABELS, |_, (entry, _)| entry.note.labels.is_empty())
            .or_cast("jsonb", |(entry, _)| json(&entry.note.labels))
            .constant_if("reference", "NULL", |_, (entry, _)| entry.note.reference.is_none())
            .or(|(entry, _)| entry.note.reference.as_deref())
            .constant_if("refunds", "NULL::uuid", |_, (entry, _)| entry.refunds.is_none())
            .or(|(entry, _)| entry.refunds.map(uuid));
        params
            .rows("claims", &self.claims)
            .column("key_id", |row| row.key.get())
            .column("idempotency_key", |row| row.claim.key.to_string())
            .column("fingerprint", |row| row.claim.fingerprint.to_vec())
            .column("owner", |row| Uuid::from_bytes(*row.owner.as_bytes()))
            .column("in_flight_until", |row| row.in_flight_until.map(Instant))
            .column("entry", |row| row.entry.map(uuid));
        params
            .rows("dropped_claims", &self.dropped_claims)
            .column("key_id", |(key, _)| key.get())
            .column("idempotency_key", |(_, claim)| *claim);
        params
    }
}

const NOW: &str = "{at}[w.place]";
const NO_LABELS: &str = "'{}'::jsonb";

fn path(hold: &HoldRow) -> String {
    let ids: Vec<_> = hold.path.iter().map(ToString::to_string).collect();
    format!("{{{}}}", ids.join(","))
}

/// Returns the labels as JSON. A map of texts can always be serialized.
pub(super) fn json(labels: &Labels) -> String {
    serde_json::to_string(labels).unwrap_or_else(|_| "{}".to_owned())
}

fn uuid(id: EntryId) -> Uuid {
    Uuid::from_bytes(*id.as_bytes())
}

/// Returns a random step for a version. Two histories that diverged are unlikely to reach the same number again.
pub(super) fn random_version_step() -> i64 {
    let [.., high, middle, low] = Uuid::now_v7().into_bytes();
    1 + i64::from(u32::from_be_bytes([0, high, middle, low]))
}
