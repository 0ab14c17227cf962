//! The transactions of the ledger.

use std::collections::HashMap;

use jiff::Timestamp;
use rusqlite::Connection;

use super::connection::Open;
use super::error::{Result, is_duplicate};
use super::known::{Effect, Known, Moment};
use super::load::Filled;
use super::read::Snapshot;
use super::statement::{in_writing, run};
use super::{index, load, write};
use crate::ledger::{Book, Needs, Posted, Posting};
use crate::store::behind::Behind;
use crate::store::plain::is_plain;
use crate::{AccountId, Clock, Refusal};

type Answers = Vec<std::result::Result<Posted, Refusal>>;

/// Also tells whether entries are to be indexed now.
pub(super) fn post(open: &mut Open, known: &Known, clock: &Clock, postings: &[Posting]) -> Result<(Answers, bool)> {
    match posted(open, known, clock, postings, true) {
        // One of them was accepted before: which one, and with what answer, has to be read.
        Err(error) if is_duplicate(&error) => {
            run(&open.connection, "ROLLBACK", [])?;
            posted(open, known, clock, postings, false)
        }
        posted => posted,
    }
}

fn posted(
    open: &mut Open,
    known: &Known,
    clock: &Clock,
    postings: &[Posting],
    by_what_is_known: bool,
) -> Result<(Answers, bool)> {
    in_writing(open, known, |connection, since| {
        let since = since.filter(|_| by_what_is_known);
        let (answers, books) = Deciding { connection, known, since, now: clock.now() }.all(postings)?;
        let mut effect = Effect::default();
        for (mut book, mut accounts) in books {
            let changes = book.take_changes();
            let places = write::changes(connection, &changes, &mut accounts)?;
            effect.add(accounts, places, changes);
        }
        Ok(((answers, index::due(connection)?.is_some()), effect))
    })
}

struct Deciding<'a> {
    connection: &'a Connection,
    known: &'a Known,
    /// What memory must be true of. `None`: nothing is to be decided by what is known.
    since: Option<Moment>,
    now: Timestamp,
}

impl Deciding<'_> {
    /// Decides about postings: those of accounts that only have plain ones by what is known, the others by what is read.
    /// In two books: what is read is not what the first has made of it.
    fn all(&self, postings: &[Posting]) -> Result<(Answers, [Filled; 2])> {
        let mut plain: HashMap<&AccountId, Option<Vec<&Posting>>> = HashMap::new();
        for posting in postings {
            let own = plain.entry(&posting.account).or_insert_with(|| self.since.map(|_| Vec::new()));
            match own {
                Some(own) if is_plain(posting) => own.push(posting),
                own => *own = None,
            }
        }
        self.learn(plain.values().flatten().flatten().copied())?;
        loop {
            let mut book = Book::new();
            let mut rows = Vec::with_capacity(plain.len());
            for (account, own) in &mut plain {
                let row = own.as_ref().and_then(|own| self.known.fill(&mut book, self.since, account, own, self.now));
                match row {
                    Some(row) => rows.push(row),
                    None => *own = None,
                }
            }
            let is_known = |posting: &Posting| plain.get(&posting.account).is_some_and(Option::is_some);
            let mut answers: Vec<_> =
                postings.iter().map(|posting| is_known(posting).then(|| book.post(posting))).collect();
            // A refusal may be that of a posting that was accepted before: that has to be read.
            let refused = postings.iter().zip(&answers).filter(|(_, answer)| matches!(answer, Some(Err(_))));
            let refused: Vec<_> = refused.map(|(posting, _)| &posting.account).collect();
            if !refused.is_empty() {
                refused.into_iter().for_each(|account| drop(plain.insert(account, None)));
                continue;
            }
            let rest: Vec<_> = postings.iter().filter(|posting| !is_known(posting)).cloned().collect();
            let mut read = (Book::new(), Vec::new());
            if !rest.is_empty() {
                read = load::book(self.connection, &Needs::of(&rest), self.now)?;
            }
            let answers = postings.iter().zip(&mut answers);
            let answers = answers.map(|(posting, answer)| answer.take().unwrap_or_else(|| read.0.post(posting)));
            return Ok((answers.collect(), [(book, rows), read]));
        }
    }

    /// Reads lineages that are not known.
    fn learn<'p>(&self, postings: impl Iterator<Item = &'p Posting>) -> Result<()> {
        let unknown = self.known.unknown_keys(postings);
        if !unknown.is_empty() {
            self.known.learn(self.since, Snapshot::of(self.connection, &unknown, self.now)?);
        }
        Ok(())
    }
}

/// Brings what is behind up to date, in a transaction of its own; tells how many holds had run out.
pub(super) fn catch_up(open: &mut Open, known: &Known, clock: &Clock, behind: Behind) -> Result<usize> {
    in_writing(open, known, |connection, _| catch_up_in(connection, clock.now(), behind))
}

/// The same, in a transaction that has begun.
pub(super) fn catch_up_in(connection: &Connection, now: Timestamp, behind: Behind) -> Result<(usize, Effect)> {
    let keys = behind.key_ids();
    let mut accounts = behind.accounts;
    accounts.sort_unstable();
    let needs = Needs { accounts, keys, ..Needs::default() };
    let (mut book, mut rows) = load::book(connection, &needs, now)?;
    let changes = book.take_changes();
    let places = write::changes(connection, &changes, &mut rows)?;
    let ended = changes.changed_holds.len();
    let mut effect = Effect::default();
    effect.add(rows, places, changes);
    Ok((ended, effect))
}
