//! The transactions of the ledger: by what is known where that is enough, else behind the lock.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{MutexGuard, PoisonError};

use jiff::Timestamp;

use super::connection::{Connection, Statements};
use super::error::{
    Result, Retry, invalid_row, is_account_missing, is_conflict, is_contention, is_locked, is_lost, is_row_error,
};
use super::inner::Inner;
use super::load::Loaded;
use super::read;
use super::types::Instant;
use super::validator::{ByRowVersion, Expected};
use super::write::{Write, applied, random_version_step};
use crate::ledger::{Book, Needs, Posted, Posting, WriteSet};
use crate::model::{AccountId, Refusal};
use crate::store::cache::{self, CacheDelta, PendingWrite};
use crate::store::fast_path::is_fast_path;

type PostingResult = Result<Posted, Refusal>;

/// So many accounts are remembered to have failed.
const MAX_QUARANTINED: usize = 1_000;

/// How often a transaction is begun anew because others were in the way.
pub(super) const ATTEMPTS: usize = 4;

impl Inner {
    pub(super) async fn posted(&self, postings: &[Posting]) -> Result<Vec<PostingResult>> {
        let mut answers: Vec<Option<PostingResult>> = Vec::new();
        answers.resize_with(postings.len(), || None);
        let mut ended = self.post_optimistic(postings, &(0..postings.len()).collect::<Vec<_>>(), &mut answers).await;
        if let Ok(lost) = &ended
            && !lost.is_empty()
        {
            // Another process wrote there before: what it wrote is read, and the postings are decided once more.
            ended = self.post_optimistic(postings, &lost.clone(), &mut answers).await;
        }
        let left: Vec<Posting> = unanswered(postings, &answers).cloned().collect();
        if !left.is_empty() {
            let late = match ended {
                Ok(_) => self.post_locked(&left).await,
                Err(error) => Err(error),
            };
            let late = match late {
                Ok(late) => late,
                Err(error) if left.len() == postings.len() => return Err(error),
                // The others have been committed, and are to be told so.
                Err(error) => {
                    tracing::warn!(%error, postings = left.len(), "agentkey could not post");
                    left.iter().map(|_| Err(Refusal::UNAVAILABLE)).collect()
                }
            };
            let mut late = late.into_iter();
            answers.iter_mut().filter(|answer| answer.is_none()).for_each(|answer| *answer = late.next());
        }
        answers.into_iter().map(|answer| answer.ok_or_else(|| invalid_row("a posting was not answered"))).collect()
    }

    /// Decides those at `places` by what is known, and writes if that still stands: one round trip, or two where a lineage
    /// must be looked at first. What it leaves unanswered took more than that; it tells where what was known was out of
    /// date.
    async fn post_optimistic(
        &self,
        postings: &[Posting],
        places: &[usize],
        answers: &mut [Option<PostingResult>],
    ) -> Result<Vec<usize>> {
        // One posting that is not plain keeps all of its account from being decided ahead of it.
        let asked = || places.iter().filter_map(|place| Some((*place, postings.get(*place)?)));
        let others: HashSet<_> =
            asked().filter(|(_, posting)| !is_fast_path(posting)).map(|(_, posting)| &posting.account).collect();
        let mut accounts: HashMap<&AccountId, Vec<usize>> = HashMap::new();
        for (place, posting) in asked().filter(|(_, posting)| !others.contains(&posting.account)) {
            accounts.entry(&posting.account).or_default().push(place);
        }
        {
            let quarantine = self.quarantine();
            accounts.retain(|account, _| self.backoff.should_try_optimistic(account) && !quarantine.contains(*account));
        }
        if accounts.is_empty() {
            return Ok(Vec::new());
        }
        let post = async |connection: &mut Connection<'_>| {
            self.cache_lineages(connection, accounts.values().flatten().filter_map(|place| postings.get(*place)))
                .await?;
            let now = self.clock.now();
            let decided = self.decide(postings, accounts, now);
            if decided.is_empty() {
                return Ok((Vec::new(), Vec::new()));
            }
            let expected: Vec<_> = decided.iter().map(|decided| decided.expected.clone()).collect();
            let changes: Vec<_> = decided.iter().map(|decided| &decided.changes).collect();
            let step = random_version_step();
            let decided_at = self.clock.set().is_none().then_some(now);
            let write = Write { expected: &expected, changes: &changes, step, decided_at };
            let write = self.writes.query(&self.layout, &write)?;
            let begin = |decided| (self.begin_write(&decided, step), decided);
            let pending: Vec<_> = decided.into_iter().map(begin).collect();
            let rows = connection.fetch(write).await?;
            Ok((pending, applied(&rows, expected.len())?))
        };
        let (pending, applied) = match self.connections.posting(post).await {
            // It had no effect, and has one behind the lock.
            Err(error) if is_contention(&error) || is_row_error(&error) => return Ok(Vec::new()),
            Err(error) => {
                if is_lost(&error) {
                    self.cache.clear();
                }
                return Err(error);
            }
            Ok(done) => done,
        };
        let mut again = Vec::new();
        for ((pending, Decided { expected, places, posted, .. }), is_applied) in pending.into_iter().zip(applied) {
            let account = &expected.row.account.id;
            if !is_applied {
                pending.into_iter().for_each(PendingWrite::on_conflict);
                self.backoff.on_conflict(account);
                again.extend(places);
                continue;
            }
            if let Some(pending) = pending {
                pending.on_commit();
                self.backoff.on_commit(account);
            }
            put(answers, places.into_iter().zip(posted.into_iter().map(Some)));
        }
        Ok(again)
    }

    /// Caches the lineages of keys that are not.
    async fn cache_lineages<'p>(
        &self,
        connection: &mut Connection<'_>,
        postings: impl Iterator<Item = &'p Posting>,
    ) -> Result<()> {
        let unknown = self.cache.uncached_keys(postings);
        if unknown.is_empty() {
            return Ok(());
        }
        let asked = self.cache.revalidate(&[], |_| false);
        let unknown: Vec<_> = unknown.into_iter().collect();
        let members = read::members(&connection.fetch(self.lineages(&unknown)).await?, &self.layout.columns)?;
        self.insert(&asked, &members, &[]);
        Ok(())
    }

    /// Decides by what is cached, account by account.
    fn decide(&self, postings: &[Posting], accounts: HashMap<&AccountId, Vec<usize>>, now: Timestamp) -> Vec<Decided> {
        // Another server may answer meanwhile; a write asks about one.
        let Some(epoch) = self.cache.epoch() else { return Vec::new() };
        let decide = |(account, places): (_, Vec<usize>)| {
            let own: Vec<_> = places.iter().filter_map(|place| postings.get(*place)).collect();
            let mut book = Book::new();
            let expected = self.cache.fill_book(&mut book, epoch, account, &own, now)?;
            let posted: Vec<_> = own.iter().map(|posting| book.post(posting)).collect();
            // A refusal may be that of a posting that was accepted before: that is for the lock to find out.
            let is_accepted = posted.iter().all(Result::is_ok);
            is_accepted.then(|| Decided { expected, places, posted, changes: book.take_writes() })
        };
        accounts.into_iter().filter_map(decide).collect()
    }

    /// Tells the cache what is about to be written, if anything is.
    fn begin_write(&self, decided: &Decided, step: i64) -> Option<PendingWrite<'_, ByRowVersion>> {
        let Decided { expected, changes, .. } = decided;
        if changes.is_empty() {
            return None;
        }
        let mut after = expected.row.after(changes);
        after.version += step;
        let deltas = vec![CacheDelta::new(expected.row.version, after, changes)];
        Some(self.cache.begin_write(cache::Write { epoch: expected.epoch, next: None, deltas, policy: Vec::new() }))
    }

    /// Decides under the lock of the accounts. What another transaction keeps locked, or what cannot be decided, keeps nothing
    /// else from being posted: an account that failed is tried apart from the others until it goes well.
    async fn post_locked(&self, postings: &[Posting]) -> Result<Vec<PostingResult>> {
        let mut answers: Vec<PostingResult> = postings.iter().map(|_| Err(Refusal::UNAVAILABLE)).collect();
        let (apart, together): (Vec<_>, Vec<_>) = {
            let quarantine = self.quarantine();
            (0..postings.len())
                .partition(|place| postings.get(*place).is_some_and(|it| quarantine.contains(&it.account)))
        };
        let mut groups = by_account(&apart, postings);
        groups.extend((!together.is_empty()).then_some(together));
        while let Some(places) = groups.pop() {
            let own: Vec<_> = places.iter().filter_map(|place| postings.get(*place)).cloned().collect();
            match self.in_one_transaction(&own).await {
                Ok(posted) => {
                    self.quarantine().retain(|account| own.iter().all(|posting| posting.account != *account));
                    put(&mut answers, places.into_iter().zip(posted));
                }
                Err(error) if is_row_error(&error) => {
                    let accounts = by_account(&places, postings);
                    if accounts.len() > 1 {
                        groups.extend(accounts);
                        continue;
                    }
                    self.quarantine_account(own.first());
                    if !is_locked(&error) && !is_conflict(&error) {
                        tracing::warn!(%error, postings = own.len(), "agentkey could not post");
                        self.one_by_one(&places, &own, &mut answers).await?;
                    }
                }
                Err(error) => return Err(error),
            }
        }
        Ok(answers)
    }

    /// Postings of one account, of which one cannot be decided. None overtakes one that only has to wait.
    async fn one_by_one(&self, places: &[usize], own: &[Posting], answers: &mut [PostingResult]) -> Result<()> {
        if own.len() < 2 {
            return Ok(());
        }
        for (place, posting) in places.iter().zip(own) {
            match self.in_one_transaction(std::slice::from_ref(posting)).await {
                Ok(posted) => put(answers, std::iter::once(*place).zip(posted)),
                Err(error) if is_locked(&error) || is_conflict(&error) => break,
                Err(error) if is_row_error(&error) => {
                    tracing::warn!(%error, posting = %posting.id, "agentkey could not post");
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn quarantine_account(&self, posting: Option<&Posting>) {
        let mut quarantine = self.quarantine();
        if quarantine.len() >= MAX_QUARANTINED {
            quarantine.clear();
        }
        quarantine.extend(posting.map(|posting| posting.account.clone()));
    }

    fn quarantine(&self) -> MutexGuard<'_, HashSet<AccountId>> {
        self.quarantine.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn in_one_transaction(&self, postings: &[Posting]) -> Result<Vec<PostingResult>> {
        let needs = Needs::of(postings);
        for _ in 0..ATTEMPTS {
            let post = async |statements: &mut Statements<'_>| self.post_in(statements, postings, &needs).await;
            match self.connections.posting(async |connection| connection.transaction(post).await).await {
                Err(error) if is_account_missing(&error) => self.make_accounts(&needs).await?,
                Err(error) if is_contention(&error) => {}
                posted => return posted,
            }
        }
        Err(Retry::Conflict.into())
    }

    /// Locks, loads, posts and writes, in a transaction that has begun.
    pub(super) async fn post_in(
        &self,
        statements: &mut Statements<'_>,
        postings: &[Posting],
        needs: &Needs,
    ) -> Result<Vec<PostingResult>> {
        let mut loaded = self.load(statements, needs).await?;
        let posted: Vec<_> = postings.iter().map(|posting| loaded.book.post(posting)).collect();
        // What look-ups of bounded staleness have of it may say that something is left.
        let refused = postings.iter().zip(&posted).filter(|(_, posted)| posted.is_err());
        self.cache.remove(refused.map(|(posting, _)| &posting.account));
        self.write(statements, &mut loaded).await?;
        Ok(posted)
    }

    /// Writes what the book changed.
    pub(super) async fn write(
        &self,
        statements: &mut Statements<'_>,
        Loaded { book, expected, due }: &mut Loaded,
    ) -> Result<WriteSet> {
        let changes = book.take_writes();
        // What is written takes `next_expiry` with it; where nothing is, it is all that changes.
        let changed: HashSet<_> = changes.accounts.iter().map(|(account, _)| &account.id).collect();
        let rows = expected.iter().map(|expected| &expected.row);
        let only = rows.filter(|row| due.contains(&row.account.id) && !changed.contains(&row.account.id));
        let (ids, next): (Vec<_>, Vec<_>) =
            only.map(|row| (row.account.id.as_str().to_owned(), row.next_expiry.map(Instant))).unzip();
        if !ids.is_empty() {
            statements.run(self.sql.update_next_expiry.query().bind(ids).bind(next)).await?;
        }
        if changes.is_empty() {
            return Ok(changes);
        }
        self.cache.remove(expected.iter().map(|expected| &expected.row.account.id));
        let write = Write { expected, changes: &[&changes], step: random_version_step(), decided_at: None };
        let rows = statements.fetch(self.writes.query(&self.layout, &write)?).await?;
        if applied(&rows, expected.len())?.contains(&false) {
            return Err(Retry::Conflict.into());
        }
        Ok(changes)
    }
}

/// Postings of one account that were decided by what is cached.
struct Decided {
    expected: Expected,
    places: Vec<usize>,
    posted: Vec<PostingResult>,
    changes: WriteSet,
}

/// The places of each account's postings, in their order.
fn by_account(places: &[usize], postings: &[Posting]) -> Vec<Vec<usize>> {
    let mut groups: BTreeMap<&AccountId, Vec<usize>> = BTreeMap::new();
    for (place, posting) in places.iter().filter_map(|place| Some((place, postings.get(*place)?))) {
        groups.entry(&posting.account).or_default().push(*place);
    }
    groups.into_values().collect()
}

fn put<T>(answers: &mut [T], given: impl Iterator<Item = (usize, T)>) {
    for (place, answer) in given {
        if let Some(slot) = answers.get_mut(place) {
            *slot = answer;
        }
    }
}

fn unanswered<'a>(postings: &'a [Posting], answers: &'a [Option<PostingResult>]) -> impl Iterator<Item = &'a Posting> {
    postings.iter().zip(answers).filter(|(_, answer)| answer.is_none()).map(|(posting, _)| posting)
}
