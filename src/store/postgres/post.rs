//! The transactions of the ledger: by what is known where that is enough, else behind the lock.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{MutexGuard, PoisonError};

use super::connection::{Connection, Statements};
use super::error::{
    Result, Retry, invalid_row, is_account_missing, is_conflict, is_contention, is_locked, is_lost, is_row_error,
};
use super::known::Basis;
use super::load::Loaded;
use super::read::lineages;
use super::types::Instant;
use super::write::{Write, applied, step};
use super::{Inner, read};
use crate::lanes::UNAVAILABLE;
use crate::ledger::{Changes, Needs, Posted, Posting};
use crate::store::plain::is_plain;
use crate::{AccountId, Refusal};

type Answer = Result<Posted, Refusal>;

/// So many accounts are remembered to have failed.
const MOST_ASIDE: usize = 1_000;

/// How often a transaction is begun anew because others were in the way.
pub(super) const ATTEMPTS: usize = 4;

impl Inner {
    pub(super) async fn posted(&self, postings: &[Posting]) -> Result<Vec<Answer>> {
        let mut answers: Vec<Option<Answer>> = Vec::new();
        answers.resize_with(postings.len(), || None);
        let mut ended = self.by_what_is_known(postings, &(0..postings.len()).collect::<Vec<_>>(), &mut answers).await;
        if let Ok(lost) = &ended
            && !lost.is_empty()
        {
            // Somebody else wrote there before: that is read, and decided by, once.
            ended = self.by_what_is_known(postings, &lost.clone(), &mut answers).await;
        }
        let left: Vec<Posting> = unanswered(postings, &answers).cloned().collect();
        if !left.is_empty() {
            let late = match ended {
                Ok(_) => self.behind_the_lock(&left).await,
                Err(error) => Err(error),
            };
            let late = match late {
                Ok(late) => late,
                Err(error) if left.len() == postings.len() => return Err(error),
                // The others have been committed, and are to be told so.
                Err(error) => {
                    tracing::warn!(%error, postings = left.len(), "agentkey could not post");
                    left.iter().map(|_| Err(UNAVAILABLE)).collect()
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
    async fn by_what_is_known(
        &self,
        postings: &[Posting],
        places: &[usize],
        answers: &mut [Option<Answer>],
    ) -> Result<Vec<usize>> {
        // One posting that is not plain keeps all of its account from being decided ahead of it.
        let asked = || places.iter().filter_map(|place| Some((*place, postings.get(*place)?)));
        let others: HashSet<_> =
            asked().filter(|(_, posting)| !is_plain(posting)).map(|(_, posting)| &posting.account).collect();
        let mut accounts: HashMap<&AccountId, Vec<usize>> = HashMap::new();
        for (place, posting) in asked().filter(|(_, posting)| !others.contains(&posting.account)) {
            accounts.entry(&posting.account).or_default().push(place);
        }
        {
            let aside = self.aside();
            accounts.retain(|account, _| self.known.is_worth_a_try(account) && !aside.contains(*account));
        }
        if accounts.is_empty() {
            return Ok(Vec::new());
        }
        let plain: Vec<_> = accounts.values().flatten().filter_map(|place| postings.get(*place)).collect();
        let unknown = self.known.unknown_keys(&plain);
        let post = async |connection: &mut Connection<'_>| {
            if !unknown.is_empty() {
                let rows = connection.fetch(self.reads.lineages(&unknown)).await?;
                self.learn(&read::members(&rows, &self.layout.columns)?);
            }
            let decided = self.decide(postings, accounts);
            if decided.is_empty() {
                return Ok((decided, Vec::new(), 0));
            }
            let bases: Vec<_> = decided.iter().map(|decided| decided.basis.clone()).collect();
            let changes: Vec<_> = decided.iter().map(|decided| &decided.changes).collect();
            let step = step();
            let write = Write { bases: &bases, changes: &changes, step };
            let query = self.writes.query(&self.layout, &write)?;
            for Decided { basis, changes, .. } in decided.iter().filter(|decided| !decided.changes.is_empty()) {
                self.known.sending(basis, basis.version + step, changes);
            }
            match connection.fetch(query).await.and_then(|rows| applied(&rows, &bases)) {
                Ok(stood) => Ok((decided, stood, step)),
                Err(error) => {
                    if is_lost(&error) {
                        self.known.forget_all();
                    }
                    self.known.forget(bases.iter().map(|basis| &basis.account));
                    Err(error)
                }
            }
        };
        let (decided, stood, step) = match self.connections.posting(post).await {
            // It had no effect, and has one behind the lock.
            Err(error) if is_contention(&error) || is_row_error(&error) => return Ok(Vec::new()),
            done => done?,
        };
        let mut again = Vec::new();
        for (Decided { basis, places, posted, changes }, stood) in decided.into_iter().zip(stood) {
            if !stood {
                self.known.lost(&basis.account);
                again.extend(places);
                continue;
            }
            if !changes.is_empty() {
                self.known.wrote(&basis.account, basis.version + step);
            }
            for (place, answer) in places.into_iter().zip(posted) {
                if let Some(slot) = answers.get_mut(place) {
                    *slot = Some(answer);
                }
            }
        }
        Ok(again)
    }

    /// Decides by what is known, account by account.
    fn decide(&self, postings: &[Posting], accounts: HashMap<&AccountId, Vec<usize>>) -> Vec<Decided> {
        let mut decided: Vec<Decided> = Vec::new();
        for (account, places) in accounts {
            let own: Vec<_> = places.iter().filter_map(|place| postings.get(*place)).collect();
            let Some((mut book, basis)) = self.known.book(account, &own, self.clock.now()) else { continue };
            // Another server has answered somebody meanwhile; a write asks about one.
            if decided.first().is_some_and(|first| first.basis.run != basis.run) {
                continue;
            }
            let posted: Vec<_> = own.iter().map(|posting| book.post(posting)).collect();
            // A refusal may be that of a posting that was accepted before: that is for the lock to find out.
            if posted.iter().all(Result::is_ok) {
                decided.push(Decided { basis, places, posted, changes: book.take_changes() });
            }
        }
        decided
    }

    /// Decides under the lock of the accounts. What somebody else keeps locked, or what cannot be decided, keeps nothing
    /// else from being posted: an account that failed is tried apart from the others until it goes well.
    async fn behind_the_lock(&self, postings: &[Posting]) -> Result<Vec<Answer>> {
        let mut answers: Vec<Answer> = postings.iter().map(|_| Err(UNAVAILABLE)).collect();
        let (apart, together): (Vec<_>, Vec<_>) = {
            let aside = self.aside();
            (0..postings.len()).partition(|place| postings.get(*place).is_some_and(|it| aside.contains(&it.account)))
        };
        let mut groups = by_account(&apart, postings);
        groups.extend((!together.is_empty()).then_some(together));
        while let Some(places) = groups.pop() {
            let own: Vec<_> = places.iter().filter_map(|place| postings.get(*place)).cloned().collect();
            match self.in_one_transaction(&own).await {
                Ok(posted) => {
                    self.aside().retain(|account| own.iter().all(|posting| posting.account != *account));
                    put(&mut answers, places.into_iter().zip(posted));
                }
                Err(error) if is_row_error(&error) => {
                    let accounts = by_account(&places, postings);
                    if accounts.len() > 1 {
                        groups.extend(accounts);
                        continue;
                    }
                    self.put_aside(own.first());
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
    async fn one_by_one(&self, places: &[usize], own: &[Posting], answers: &mut [Answer]) -> Result<()> {
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

    fn put_aside(&self, posting: Option<&Posting>) {
        let mut aside = self.aside();
        if aside.len() >= MOST_ASIDE {
            aside.clear();
        }
        aside.extend(posting.map(|posting| posting.account.clone()));
    }

    fn aside(&self) -> MutexGuard<'_, HashSet<AccountId>> {
        self.aside.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn in_one_transaction(&self, postings: &[Posting]) -> Result<Vec<Answer>> {
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
    ) -> Result<Vec<Answer>> {
        let mut loaded = self.load(statements, needs).await?;
        let posted = postings.iter().map(|posting| loaded.book.post(posting)).collect();
        self.write(statements, &mut loaded).await?;
        Ok(posted)
    }

    /// Writes what the book changed.
    pub(super) async fn write(
        &self,
        statements: &mut Statements<'_>,
        Loaded { book, bases, due }: &mut Loaded,
    ) -> Result<Changes> {
        let changes = book.take_changes();
        // What is written takes `next_expiry` with it; where nothing is, it is all that changes.
        let changed: HashSet<_> = changes.accounts.iter().map(|(account, _)| &account.id).collect();
        let only = bases.iter().filter(|basis| due.contains(&basis.account) && !changed.contains(&basis.account));
        let (ids, next): (Vec<_>, Vec<_>) =
            only.map(|basis| (basis.account.as_str().to_owned(), basis.next_expiry.map(Instant))).unzip();
        if !ids.is_empty() {
            statements.run(self.loads.put_next_expiry.query().bind(ids).bind(next)).await?;
        }
        if changes.is_empty() {
            return Ok(changes);
        }
        self.known.forget(bases.iter().map(|basis| &basis.account));
        let write = Write { bases, changes: &[&changes], step: step() };
        let rows = statements.fetch(self.writes.query(&self.layout, &write)?).await?;
        if !applied(&rows, bases)?.into_iter().all(|stood| stood) {
            return Err(Retry::Conflict.into());
        }
        Ok(changes)
    }

    pub(super) fn learn(&self, members: &[read::Member]) {
        for (_, lineage) in lineages(members) {
            let Some(keys) = read::whole(lineage) else { continue };
            let behind = lineage.iter().any(|member| member.key.as_ref().is_none_or(|(row, _)| row.is_behind));
            let Some(first) = lineage.first().filter(|_| !behind) else { continue };
            let (run, Some(account)) = (first.run, first.account.as_ref()) else { continue };
            let (id, version) = (&account.account.id, account.version);
            if !keys.iter().all(|(key, stamp)| self.known.knows(run, id, version, key.id, *stamp)) {
                self.known.learn(run, account, keys.into_iter().map(|(key, stamp)| (key.clone(), stamp)));
            }
        }
    }
}

/// Postings of one account that were decided by what is known.
struct Decided {
    basis: Basis,
    places: Vec<usize>,
    posted: Vec<Answer>,
    changes: Changes,
}

/// The places of each account's postings, in their order.
fn by_account(places: &[usize], postings: &[Posting]) -> Vec<Vec<usize>> {
    let mut groups: BTreeMap<&AccountId, Vec<usize>> = BTreeMap::new();
    for (place, posting) in places.iter().filter_map(|place| Some((place, postings.get(*place)?))) {
        groups.entry(&posting.account).or_default().push(*place);
    }
    groups.into_values().collect()
}

fn put(answers: &mut [Answer], given: impl Iterator<Item = (usize, Answer)>) {
    for (place, answer) in given {
        if let Some(slot) = answers.get_mut(place) {
            *slot = answer;
        }
    }
}

fn unanswered<'a>(postings: &'a [Posting], answers: &'a [Option<Answer>]) -> impl Iterator<Item = &'a Posting> {
    postings.iter().zip(answers).filter(|(_, answer)| answer.is_none()).map(|(posting, _)| posting)
}
