//! Posting: optimistic if cached data is enough, and else under the lock.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{MutexGuard, PoisonError};

use jiff::Timestamp;

use super::connection::{Connection, Statements};
use super::error::{
    Result, Retry, invalid_row, is_account_missing, is_conflict, is_contention, is_locked, is_lost,
    is_row_error,
};
use super::inner::Inner;
use super::load::Loaded;
use super::read;
use super::types::Instant;
use super::validator::{ByRowVersion, Expected};
use super::write::{Write, applied, random_version_step};
use crate::ledger::{Book, Needs, Posting, PostingResult, WriteSet};
use crate::model::{AccountId, Refusal};
use crate::store::cache::{self, CacheDelta, PendingWrite};
use crate::store::fast_path::is_fast_path;

/// The most accounts in quarantine.
const MAX_QUARANTINED: usize = 1_000;

/// How often a transaction is attempted that conflicts with other transactions.
pub(super) const ATTEMPTS: usize = 4;

impl Inner {
    pub(super) async fn post_batch(&self, postings: &[Posting]) -> Result<Vec<PostingResult>> {
        let mut answers: Vec<Option<PostingResult>> = Vec::new();
        answers.resize_with(postings.len(), || None);
        let mut ended = self
            .post_optimistic(postings, &(0..postings.len()).collect::<Vec<_>>(), &mut answers)
            .await;
        if let Ok(conflicted) = &ended
            && !conflicted.is_empty()
        {
            // Another process wrote these accounts first. Its rows are read, and the postings are decided again.
            ended = self.post_optimistic(postings, &conflicted.clone(), &mut answers).await;
        }
        let left: Vec<Posting> = unanswered(postings, &answers).cloned().collect();
        if !left.is_empty() {
            let locked = match ended {
                Ok(_) => self.post_locked(&left).await,
                Err(error) => Err(error),
            };
            let locked = match locked {
                Ok(locked) => locked,
                Err(error) if left.len() == postings.len() => return Err(error),
                // The other postings have been committed, and their callers get their answers.
                Err(error) => {
                    tracing::warn!(
                        %error,
                        postings = left.len(),
                        "agentkey could not post part of a batch, and retries"
                    );
                    left.iter().map(|_| Err(Refusal::UNAVAILABLE)).collect()
                }
            };
            let mut locked = locked.into_iter();
            answers
                .iter_mut()
                .filter(|answer| answer.is_none())
                .for_each(|answer| *answer = locked.next());
        }
        answers
            .into_iter()
            .map(|answer| answer.ok_or_else(|| invalid_row("a posting was not answered")))
            .collect()
    }

    /// Decides the postings at `indices` by cached data, and writes on condition that their versions are unchanged.
    /// That takes one round trip, or two if a lineage has to be read first. Postings that need more stay unanswered.
    /// Returns the postings of accounts that conflicted.
    async fn post_optimistic(
        &self,
        postings: &[Posting],
        indices: &[usize],
        answers: &mut [Option<PostingResult>],
    ) -> Result<Vec<usize>> {
        // One posting that is not on the fast path keeps the whole account off it, so that no posting overtakes
        // another.
        let requested = || indices.iter().filter_map(|index| Some((*index, postings.get(*index)?)));
        let off_fast_path: HashSet<_> = requested()
            .filter(|(_, posting)| !is_fast_path(posting))
            .map(|(_, posting)| &posting.account)
            .collect();
        let mut accounts: HashMap<&AccountId, Vec<usize>> = HashMap::new();
        for (index, posting) in
            requested().filter(|(_, posting)| !off_fast_path.contains(&posting.account))
        {
            accounts.entry(&posting.account).or_default().push(index);
        }
        {
            let quarantine = self.quarantine();
            accounts.retain(|account, _| {
                self.backoff.should_try_optimistic(account) && !quarantine.contains(*account)
            });
        }
        if accounts.is_empty() {
            return Ok(Vec::new());
        }
        let post = async |connection: &mut Connection<'_>| {
            self.cache_lineages(
                connection,
                accounts.values().flatten().filter_map(|index| postings.get(*index)),
            )
            .await?;
            let now = self.clock.now();
            let decisions = self.decide(postings, accounts, now);
            if decisions.is_empty() {
                return Ok((Vec::new(), Vec::new()));
            }
            let expected: Vec<_> =
                decisions.iter().map(|decision| decision.expected.clone()).collect();
            let changes: Vec<_> = decisions.iter().map(|decision| &decision.changes).collect();
            let step = random_version_step();
            let decided_at = self.clock.set().is_none().then_some(now);
            let write = Write { expected: &expected, changes: &changes, step, decided_at };
            let write = self.write_sql.query(&self.schema, &write)?;
            let begin = |decision| (self.begin_write(&decision, step), decision);
            let pending: Vec<_> = decisions.into_iter().map(begin).collect();
            let rows = connection.fetch(write).await?;
            Ok((pending, applied(&rows, expected.len())?))
        };
        let (pending, applied) = match self.connections.posting(post).await {
            // The write had no effect. The postings are decided under the lock.
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
        for ((pending, Decision { expected, indices, posted, .. }), is_applied) in
            pending.into_iter().zip(applied)
        {
            let account = &expected.row.account.id;
            if !is_applied {
                pending.into_iter().for_each(PendingWrite::on_conflict);
                self.backoff.on_conflict(account);
                again.extend(indices);
                continue;
            }
            if let Some(pending) = pending {
                pending.on_commit();
                self.backoff.on_commit(account);
            }
            set_answers(answers, indices.into_iter().zip(posted.into_iter().map(Some)));
        }
        Ok(again)
    }

    /// Caches the lineages of keys that are not cached yet.
    async fn cache_lineages<'p>(
        &self,
        connection: &mut Connection<'_>,
        postings: impl Iterator<Item = &'p Posting>,
    ) -> Result<()> {
        let uncached = self.cache.uncached_keys(postings);
        if uncached.is_empty() {
            return Ok(());
        }
        let revalidation = self.cache.revalidate(&[], |_| false);
        let uncached: Vec<_> = uncached.into_iter().collect();
        let members = read::members(
            &connection.fetch(self.lineages(&uncached)).await?,
            &self.schema.columns,
        )?;
        self.insert(&revalidation, &members, &[]);
        Ok(())
    }

    /// Decides postings by cached data, account by account.
    fn decide(
        &self,
        postings: &[Posting],
        accounts: HashMap<&AccountId, Vec<usize>>,
        now: Timestamp,
    ) -> Vec<Decision> {
        // Another server may answer in the meantime, so a write names its incarnation.
        let Some(epoch) = self.cache.epoch() else { return Vec::new() };
        let decide = |(account, indices): (_, Vec<usize>)| {
            let own: Vec<_> = indices.iter().filter_map(|index| postings.get(*index)).collect();
            let mut book = Book::new();
            let expected = self.cache.fill_book(&mut book, epoch, account, &own, now)?;
            let posted: Vec<_> = own.iter().map(|posting| book.post(posting)).collect();
            // A refused posting may have been accepted before, which is checked under the lock.
            let is_accepted = posted.iter().all(Result::is_ok);
            let changes = is_accepted.then(|| book.take_writes())?;
            // An event is a statement of its own, in a transaction.
            changes.events.is_empty().then_some(Decision { expected, indices, posted, changes })
        };
        accounts.into_iter().filter_map(decide).collect()
    }

    /// Announces a write to the cache, if there is anything to write.
    fn begin_write(
        &self,
        decision: &Decision,
        step: i64,
    ) -> Option<PendingWrite<'_, ByRowVersion>> {
        let Decision { expected, changes, .. } = decision;
        if changes.is_empty() {
            return None;
        }
        let mut after = expected.row.after(changes);
        after.version += step;
        let deltas = vec![CacheDelta::new(expected.row.version, after, changes)];
        Some(self.cache.begin_write(cache::Write {
            epoch: expected.epoch,
            next: None,
            deltas,
            policy: Vec::new(),
        }))
    }

    /// Decides postings under the lock of their accounts. An account that is locked by another transaction, or that
    /// cannot be decided, does not hinder the others. It goes into quarantine until its postings succeed.
    async fn post_locked(&self, postings: &[Posting]) -> Result<Vec<PostingResult>> {
        let mut answers: Vec<PostingResult> =
            postings.iter().map(|_| Err(Refusal::UNAVAILABLE)).collect();
        let (quarantined, others): (Vec<_>, Vec<_>) = {
            let quarantine = self.quarantine();
            (0..postings.len()).partition(|index| {
                postings.get(*index).is_some_and(|it| quarantine.contains(&it.account))
            })
        };
        let mut groups = by_account(&quarantined, postings);
        groups.extend((!others.is_empty()).then_some(others));
        while let Some(indices) = groups.pop() {
            let own: Vec<_> =
                indices.iter().filter_map(|index| postings.get(*index)).cloned().collect();
            match self.post_in_transaction(&own).await {
                Ok(posted) => {
                    self.quarantine()
                        .retain(|account| own.iter().all(|posting| posting.account != *account));
                    set_answers(&mut answers, indices.into_iter().zip(posted));
                }
                Err(error) if is_row_error(&error) => {
                    let accounts = by_account(&indices, postings);
                    if accounts.len() > 1 {
                        groups.extend(accounts);
                        continue;
                    }
                    self.quarantine_account(own.first());
                    if !is_locked(&error) && !is_conflict(&error) {
                        tracing::warn!(
                            %error,
                            postings = own.len(),
                            "agentkey could not post to one account, and retries"
                        );
                        self.post_individually(&indices, &own, &mut answers).await?;
                    }
                }
                Err(error) => return Err(error),
            }
        }
        Ok(answers)
    }

    /// Posts the postings of one account one after the other, because one of them cannot be decided. No posting
    /// overtakes one that only has to wait.
    async fn post_individually(
        &self,
        indices: &[usize],
        own: &[Posting],
        answers: &mut [PostingResult],
    ) -> Result<()> {
        if own.len() < 2 {
            return Ok(());
        }
        for (index, posting) in indices.iter().zip(own) {
            match self.post_in_transaction(std::slice::from_ref(posting)).await {
                Ok(posted) => set_answers(answers, std::iter::once(*index).zip(posted)),
                Err(error) if is_locked(&error) || is_conflict(&error) => break,
                Err(error) if is_row_error(&error) => {
                    tracing::warn!(%error, posting = %posting.id, "agentkey could not post this, and retries");
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

    async fn post_in_transaction(&self, postings: &[Posting]) -> Result<Vec<PostingResult>> {
        let needs = Needs::of(postings);
        for _ in 0..ATTEMPTS {
            let post = async |statements: &mut Statements<'_>| {
                self.post_in(statements, postings, &needs).await
            };
            match self
                .connections
                .posting(async |connection| connection.transaction(post).await)
                .await
            {
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
        // A look-up of bounded staleness could still report money that is left, so the account is dropped.
        let refused = postings.iter().zip(&posted).filter(|(_, posted)| posted.is_err());
        self.cache.remove(refused.map(|(posting, _)| &posting.account));
        self.write(statements, &mut loaded).await?;
        Ok(posted)
    }

    /// Writes the changes of the book.
    pub(super) async fn write(
        &self,
        statements: &mut Statements<'_>,
        Loaded { book, expected, due }: &mut Loaded,
    ) -> Result<WriteSet> {
        let changes = book.take_writes();
        // A write includes `next_expiry`. Accounts without a write need only that column changed.
        let changed: HashSet<_> = changes.accounts.iter().map(|(account, _)| &account.id).collect();
        let rows = expected.iter().map(|expected| &expected.row);
        let only =
            rows.filter(|row| due.contains(&row.account.id) && !changed.contains(&row.account.id));
        let (ids, next): (Vec<_>, Vec<_>) = only
            .map(|row| (row.account.id.as_str().to_owned(), row.next_expiry.map(Instant)))
            .unzip();
        if !ids.is_empty() {
            statements.run(self.sql.update_next_expiry.query().bind(ids).bind(next)).await?;
        }
        if changes.is_empty() {
            return Ok(changes);
        }
        self.cache.remove(expected.iter().map(|expected| &expected.row.account.id));
        let write =
            Write { expected, changes: &[&changes], step: random_version_step(), decided_at: None };
        let rows = statements.fetch(self.write_sql.query(&self.schema, &write)?).await?;
        if applied(&rows, expected.len())?.contains(&false) {
            return Err(Retry::Conflict.into());
        }
        for event in &changes.events {
            self.insert_event(statements, event).await?;
        }
        Ok(changes)
    }
}

/// The decision about the postings of one account, by cached data.
struct Decision {
    expected: Expected,
    indices: Vec<usize>,
    posted: Vec<PostingResult>,
    changes: WriteSet,
}

/// Returns the indices of each account's postings, in their order.
fn by_account(indices: &[usize], postings: &[Posting]) -> Vec<Vec<usize>> {
    let mut groups: BTreeMap<&AccountId, Vec<usize>> = BTreeMap::new();
    for (index, posting) in indices.iter().filter_map(|index| Some((index, postings.get(*index)?)))
    {
        groups.entry(&posting.account).or_default().push(*index);
    }
    groups.into_values().collect()
}

fn set_answers<T>(answers: &mut [T], given: impl Iterator<Item = (usize, T)>) {
    for (index, answer) in given {
        if let Some(slot) = answers.get_mut(index) {
            *slot = answer;
        }
    }
}

fn unanswered<'a>(
    postings: &'a [Posting],
    answers: &'a [Option<PostingResult>],
) -> impl Iterator<Item = &'a Posting> {
    postings.iter().zip(answers).filter(|(_, answer)| answer.is_none()).map(|(posting, _)| posting)
}
