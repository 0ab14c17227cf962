//! The transactions of the ledger.

use std::collections::BTreeMap;

use jiff::Timestamp;
use rusqlite::Connection;

use super::connection::Open;
use super::error::{Result, corrupt, is_duplicate};
use super::index::IndexRow;
use super::read::Snapshot;
use super::statement::run;
use super::transaction::{BegunTransaction, Written, in_write_transaction};
use super::validator::Cache;
use super::version::FileVersion;
use super::write::Decision;
use super::{index, load, write};
use crate::ledger::{Book, Needs, Posting, PostingResult};
use crate::model::{AccountId, Clock};
use crate::store::fast_path::is_fast_path;
use crate::store::stale::Stale;

/// Posts a batch. Also returns whether a part of the indexes is due.
pub(super) fn post(
    open: &mut Open,
    cache: &Cache,
    clock: &Clock,
    postings: &[Posting],
) -> Result<(Vec<PostingResult>, bool)> {
    match post_once(open, cache, clock, postings, true) {
        // One of them was accepted before. Which one, and with what answer, has to be read.
        Err(error) if is_duplicate(&error) => {
            run(&open.connection, "ROLLBACK", [])?;
            post_once(open, cache, clock, postings, false)
        }
        posted => posted,
    }
}

fn post_once(
    open: &mut Open,
    cache: &Cache,
    clock: &Clock,
    postings: &[Posting],
    by_cache: bool,
) -> Result<(Vec<PostingResult>, bool)> {
    in_write_transaction(open, cache, |connection, transaction| {
        let version = transaction.version.filter(|_| by_cache);
        let decider = Decider { connection, cache, version, now: clock.now() };
        decider.cache_lineages(transaction, postings)?;
        let (answers, decisions) = decider.decide_all(postings)?;
        let index_rows = write::changes(connection, &decisions)?;
        let deltas = decisions.iter().map(Decision::delta).collect();
        Ok((
            (answers, index::due(connection)?.is_some()),
            Written { deltas, index_rows, ..Written::default() },
        ))
    })
}

struct Decider<'a> {
    connection: &'a Connection,
    cache: &'a Cache,
    /// The version of the file; `None` if no cached data may be used.
    version: Option<FileVersion>,
    now: Timestamp,
}

impl Decider<'_> {
    /// Caches the lineages of keys that are not cached yet.
    fn cache_lineages(
        &self,
        transaction: &BegunTransaction<'_>,
        postings: &[Posting],
    ) -> Result<()> {
        let Some(version) = self.version else { return Ok(()) };
        let uncached =
            self.cache.uncached_keys(postings.iter().filter(|posting| is_fast_path(posting)));
        if !uncached.is_empty() {
            let snapshot = Snapshot::read(self.connection, uncached, self.now)?;
            self.cache.insert(&transaction.revalidation, version, snapshot.into_cache());
        }
        Ok(())
    }

    /// Decides postings, account by account.
    fn decide_all(&self, postings: &[Posting]) -> Result<(Vec<PostingResult>, Vec<Decision>)> {
        let mut accounts: BTreeMap<&AccountId, Vec<(usize, &Posting)>> = BTreeMap::new();
        for (index, posting) in postings.iter().enumerate() {
            accounts.entry(&posting.account).or_default().push((index, posting));
        }
        let mut answers: Vec<Option<PostingResult>> = Vec::new();
        answers.resize_with(postings.len(), || None);
        let mut decisions = Vec::with_capacity(accounts.len());
        for (account, own) in accounts {
            let (indices, own): (Vec<_>, Vec<_>) = own.into_iter().unzip();
            let posted = self.decide_account(account, &own, &mut decisions)?;
            for (index, answer) in indices.into_iter().zip(posted) {
                if let Some(slot) = answers.get_mut(index) {
                    *slot = Some(answer);
                }
            }
        }
        let answers = answers
            .into_iter()
            .map(|answer| answer.ok_or_else(|| corrupt("a posting was not answered")));
        Ok((answers.collect::<Result<_>>()?, decisions))
    }

    /// Decides the postings of one account by cached data if that is enough, and else by what it reads.
    fn decide_account(
        &self,
        account: &AccountId,
        own: &[&Posting],
        decisions: &mut Vec<Decision>,
    ) -> Result<Vec<PostingResult>> {
        let mut book = Book::new();
        let expected = self
            .version
            .and_then(|version| self.cache.fill_book(&mut book, version, account, own, self.now));
        if let Some(expected) = expected {
            let posted: Vec<_> = own.iter().map(|posting| book.post(posting)).collect();
            // A refused posting may have been accepted before, which has to be read.
            if posted.iter().all(PostingResult::is_ok) {
                decisions.push(Decision::new(expected.row, book.take_writes()));
                return Ok(posted);
            }
        }
        let own: Vec<_> = own.iter().copied().cloned().collect();
        let (mut book, row) = load::book(self.connection, &Needs::of(&own), self.now)?;
        let posted: Vec<_> = own.iter().map(|posting| book.post(posting)).collect();
        if posted.iter().any(PostingResult::is_err) {
            // A look-up of bounded staleness could still report money that is left, so the account is dropped.
            self.cache.remove([account]);
        }
        let changes = book.take_writes();
        decisions.extend(row.map(|row| Decision::new(row, changes)));
        Ok(posted)
    }
}

/// Posts the openings of keys that the transaction has imported. Returns the index rows of the entries.
pub(super) fn post_openings(
    connection: &Connection,
    now: Timestamp,
    openings: &[Posting],
) -> Result<Vec<IndexRow>> {
    let mut accounts: BTreeMap<&AccountId, Vec<Posting>> = BTreeMap::new();
    for opening in openings {
        accounts.entry(&opening.account).or_default().push(opening.clone());
    }
    let mut decisions = Vec::with_capacity(accounts.len());
    for own in accounts.into_values() {
        let (mut book, row) = load::book(connection, &Needs::of(&own), now)?;
        for opening in &own {
            book.post(opening).map_err(corrupt)?;
        }
        let changes = book.take_writes();
        decisions.extend(row.map(|row| Decision::new(row, changes)));
    }
    write::changes(connection, &decisions)
}

/// Brings stale accounts up to date in a transaction of its own. Returns how many holds had expired.
pub(super) fn expire_holds(
    open: &mut Open,
    cache: &Cache,
    clock: &Clock,
    stale: Stale,
) -> Result<usize> {
    in_write_transaction(open, cache, |connection, _| {
        expire_holds_in(connection, clock.now(), stale)
    })
}

/// Brings stale accounts up to date inside a transaction that has begun.
pub(super) fn expire_holds_in(
    connection: &Connection,
    now: Timestamp,
    stale: Stale,
) -> Result<(usize, Written)> {
    let mut decisions = Vec::with_capacity(stale.accounts.len());
    for stale in stale.per_account() {
        let (mut book, row) = load::book(connection, &stale.needs(), now)?;
        let changes = book.take_writes();
        decisions.extend(row.map(|row| Decision::new(row, changes)));
    }
    let index_rows = write::changes(connection, &decisions)?;
    let ended = decisions.iter().map(|decision| decision.changes.changed_holds.len()).sum();
    let deltas = decisions.iter().map(Decision::delta).collect();
    Ok((ended, Written { deltas, index_rows, ..Written::default() }))
}

/// Indexes the entries of the part that is due.
pub(super) fn index_part(open: &mut Open, cache: &Cache) -> Result<()> {
    in_write_transaction(open, cache, |connection, transaction| {
        index::index_due_part(connection, transaction.recent, transaction.version)?;
        Ok(((), Written::default()))
    })
}
