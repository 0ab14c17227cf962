//! The transactions of the ledger.

use std::collections::BTreeMap;

use jiff::Timestamp;
use rusqlite::Connection;

use super::connection::Open;
use super::error::{Result, corrupt, is_duplicate};
use super::read::Snapshot;
use super::statement::run;
use super::transaction::{Begun, Written, in_writing};
use super::version::{Cache, FileVersion};
use super::write::Decided;
use super::{index, load, write};
use crate::ledger::{Book, Needs, Posted, Posting};
use crate::model::{AccountId, Clock, Refusal};
use crate::store::fast_path::is_fast_path;
use crate::store::stale::Stale;

type PostingResult = std::result::Result<Posted, Refusal>;

/// Also tells whether entries are to be indexed now.
pub(super) fn post(
    open: &mut Open,
    cache: &Cache,
    clock: &Clock,
    postings: &[Posting],
) -> Result<(Vec<PostingResult>, bool)> {
    match post_once(open, cache, clock, postings, true) {
        // One of them was accepted before: which one, and with what answer, has to be read.
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
    in_writing(open, cache, |connection, begun| {
        let version = begun.version.filter(|_| by_cache);
        let deciding = Deciding { connection, cache, version, now: clock.now() };
        deciding.cache_lineages(begun, postings)?;
        let (answers, decided) = deciding.all(postings)?;
        let places = write::changes(connection, &decided)?;
        let deltas = decided.iter().map(Decided::delta).collect();
        Ok(((answers, index::due(connection)?.is_some()), Written { deltas, places, ..Written::default() }))
    })
}

struct Deciding<'a> {
    connection: &'a Connection,
    cache: &'a Cache,
    /// The version of the file. `None`: nothing is to be decided by what is cached.
    version: Option<FileVersion>,
    now: Timestamp,
}

impl Deciding<'_> {
    /// Caches the lineages of keys that are not.
    fn cache_lineages(&self, begun: &Begun<'_>, postings: &[Posting]) -> Result<()> {
        let Some(version) = self.version else { return Ok(()) };
        let unknown = self.cache.unknown_keys(postings.iter().filter(|posting| is_fast_path(posting)));
        if !unknown.is_empty() {
            let snapshot = Snapshot::of(self.connection, unknown, self.now)?;
            self.cache.insert(&begun.asked, version, snapshot.into_cache());
        }
        Ok(())
    }

    /// Decides about postings, account by account.
    fn all(&self, postings: &[Posting]) -> Result<(Vec<PostingResult>, Vec<Decided>)> {
        let mut accounts: BTreeMap<&AccountId, Vec<(usize, &Posting)>> = BTreeMap::new();
        for (place, posting) in postings.iter().enumerate() {
            accounts.entry(&posting.account).or_default().push((place, posting));
        }
        let mut answers: Vec<Option<PostingResult>> = Vec::new();
        answers.resize_with(postings.len(), || None);
        let mut decided = Vec::with_capacity(accounts.len());
        for (account, own) in accounts {
            let (places, own): (Vec<_>, Vec<_>) = own.into_iter().unzip();
            let posted = self.of_account(account, &own, &mut decided)?;
            for (place, answer) in places.into_iter().zip(posted) {
                if let Some(slot) = answers.get_mut(place) {
                    *slot = Some(answer);
                }
            }
        }
        let answers = answers.into_iter().map(|answer| answer.ok_or_else(|| corrupt("a posting was not answered")));
        Ok((answers.collect::<Result<_>>()?, decided))
    }

    /// By what is cached, where that is enough; else by what is read.
    fn of_account(
        &self,
        account: &AccountId,
        own: &[&Posting],
        decided: &mut Vec<Decided>,
    ) -> Result<Vec<PostingResult>> {
        let mut book = Book::new();
        let expected =
            self.version.and_then(|version| self.cache.fill_book(&mut book, version, account, own, self.now));
        if let Some(expected) = expected {
            let posted: Vec<_> = own.iter().map(|posting| book.post(posting)).collect();
            // A refusal may be that of a posting that was accepted before: that has to be read.
            if posted.iter().all(PostingResult::is_ok) {
                decided.push(Decided::new(expected.row, book.take_writes()));
                return Ok(posted);
            }
        }
        let own: Vec<_> = own.iter().copied().cloned().collect();
        let (mut book, row) = load::book(self.connection, &Needs::of(&own), self.now)?;
        let posted: Vec<_> = own.iter().map(|posting| book.post(posting)).collect();
        if posted.iter().any(PostingResult::is_err) {
            // What look-ups of bounded staleness have of it may say that something is left.
            self.cache.remove([account]);
        }
        let changes = book.take_writes();
        decided.extend(row.map(|row| Decided::new(row, changes)));
        Ok(posted)
    }
}

/// Brings what is behind up to date, in a transaction of its own; tells how many holds had run out.
pub(super) fn expire_holds(open: &mut Open, cache: &Cache, clock: &Clock, stale: Stale) -> Result<usize> {
    in_writing(open, cache, |connection, _| expire_holds_in(connection, clock.now(), stale))
}

/// The same, in a transaction that has begun.
pub(super) fn expire_holds_in(connection: &Connection, now: Timestamp, stale: Stale) -> Result<(usize, Written)> {
    let mut decided = Vec::with_capacity(stale.accounts.len());
    for stale in stale.apart() {
        let (mut book, row) = load::book(connection, &stale.needs(), now)?;
        let changes = book.take_writes();
        decided.extend(row.map(|row| Decided::new(row, changes)));
    }
    let places = write::changes(connection, &decided)?;
    let ended = decided.iter().map(|decided| decided.changes.changed_holds.len()).sum();
    let deltas = decided.iter().map(Decided::delta).collect();
    Ok((ended, Written { deltas, places, ..Written::default() }))
}

/// Indexes the entries of the part whose turn it is.
pub(super) fn index_part(open: &mut Open, cache: &Cache) -> Result<()> {
    in_writing(open, cache, |connection, begun| {
        index::expire_holds(connection, begun.recent, begun.version)?;
        Ok(((), Written::default()))
    })
}
