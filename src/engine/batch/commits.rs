//! Postings, batched into one commit.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};
use tokio::time::{Instant, sleep, timeout};

use super::options::BatchOptions;
use crate::engine::metrics::{Counted, Metrics, PostingMetrics, SentSettle, StoreMetrics};
use crate::engine::open_charges::ChargePermit;
use crate::ledger::{Action, KeyChange, Outcome, Posted, Posting, PostingResult, Rules};
use crate::model::{AccountId, KeyId, PostingId, Refusal};
use crate::store::{Store, StoreError};

/// The most postings in one batch.
const BATCH: usize = 512;
/// The most postings of a blocked account in one batch. The last attempt left some postings of such
/// an account undecided.
const BLOCKED_BATCH: usize = 16;
/// The reason of a revocation at the cap of a session.
const SPEND_CAP: &str = "spend cap reached";
const FIRST_PAUSE: Duration = Duration::from_millis(10);
const MAX_PAUSE: Duration = Duration::from_millis(250);

/// The queue of postings. It has no bound of its own: every job holds a permit of a bounded
/// semaphore.
#[derive(Debug)]
pub(super) struct CommitQueue(mpsc::UnboundedSender<Job>);

#[derive(Debug)]
pub(super) struct Job {
    posting: Posting,
    /// `None` once the job is answered.
    answer: Option<oneshot::Sender<PostingResult>>,
    /// Until when the posting is retried while the store is not available.
    deadline: Instant,
    permit: Permit,
    _queued: Counted,
    /// Whether an earlier attempt may still take effect, because the store did not answer it.
    in_doubt: bool,
}

/// The permit that a job holds until it is answered.
#[derive(Debug)]
pub(super) enum Permit {
    /// A permit of a posting that waits for an answer.
    Waiting(#[expect(dead_code, reason = "held, not read")] OwnedSemaphorePermit),
    /// The permit of a charge, kept for its settle.
    Charge(#[expect(dead_code, reason = "held, not read")] Option<Arc<ChargePermit>>, SentSettle),
}

impl Job {
    pub(super) fn new(
        posting: Posting,
        answer: oneshot::Sender<PostingResult>,
        deadline: Instant,
        permit: Permit,
        queued: Counted,
    ) -> Self {
        let answer = Some(answer);
        Self { posting, answer, deadline, permit, _queued: queued, in_doubt: false }
    }

    /// Returns whether this is a settle, which is posted even if its answer is not awaited.
    fn is_settle(&self) -> bool {
        matches!(self.permit, Permit::Charge(..))
    }

    fn is_wanted(&self) -> bool {
        self.is_settle() || self.answer.as_ref().is_some_and(|answer| !answer.is_closed())
    }

    /// Logs a charge that could not be posted, with everything that is needed to post it by hand.
    ///
    /// The charge may have been committed, and only its answer lost.
    fn log_lost(&self) {
        if let Permit::Charge(_, settle) = &self.permit {
            settle.lost();
        }
        let posting = &self.posting;
        if let Action::Settle { holds, void, cost, note, claim } = &posting.action {
            let ids = |ids: &[PostingId]| ids.iter().map(ToString::to_string).collect::<Vec<_>>();
            tracing::error!(
                posting = %posting.id,
                account = %posting.account,
                key = posting.key.map(tracing::field::display),
                cost_micros = cost.as_micros(),
                holds = ?ids(holds),
                void = ?ids(void),
                labels = ?note.labels,
                reference = ?note.reference,
                idempotency_key = ?claim.as_ref().map(|claim| &claim.key),
                "agentkey could not post a charge; post it by hand with `AgentKeys::settle_as`, which charges it once"
            );
        }
    }

    /// Logs the entry that an accepted posting wrote, and a cost for which the budget had no room.
    fn log_posted(&self, posted: &Posted) {
        let (kind, entry, amount) = match (&self.posting.action, &posted.outcome) {
            (Action::Settle { cost, .. }, Outcome::Settled { entry: Some(entry) }) => {
                ("settle", entry, cost)
            }
            (Action::Pay { amount, .. }, Outcome::Paid { entry }) => ("pay", entry, amount),
            (Action::Refund { amount, .. }, Outcome::Refunded { entry }) => {
                ("refund", entry, amount)
            }
            (Action::Adjust { amount, .. }, Outcome::Adjusted { entry }) => {
                ("adjust", entry, amount)
            }
            _ => return,
        };
        let account = &self.posting.account;
        let key = self.posting.key.map(tracing::field::display);
        tracing::debug!(kind, %entry, %account, key, amount_micros = amount.as_micros(), "agentkey posted an entry");
        if posted.debt.is_positive() {
            let (cost_micros, debt_micros) = (amount.as_micros(), posted.debt.as_micros());
            let key = self.posting.key.map(tracing::field::display);
            tracing::info!(%entry, %account, key, cost_micros, debt_micros, "a charge cost more than the budget had left");
        }
    }

    fn reply(mut self, answer: PostingResult) {
        // An earlier attempt may still be accepted, so the refusal is not final. The caller takes
        // the posting back.
        let answer = if self.in_doubt { answer.map_err(|_| Refusal::UNAVAILABLE) } else { answer };
        match &answer {
            Ok(posted) => self.log_posted(posted),
            Err(_) if self.is_settle() => self.log_lost(),
            Err(_) => {}
        }
        if let Some(sender) = self.answer.take() {
            let _ = sender.send(answer);
        }
    }
}

impl Drop for Job {
    /// Logs a settle that was not answered, because its runtime was shut down.
    fn drop(&mut self) {
        if self.is_settle() && self.answer.is_some() {
            self.log_lost();
        }
    }
}

impl CommitQueue {
    pub(super) fn start(store: Arc<dyn Store>, options: BatchOptions, metrics: &Metrics) -> Self {
        let (sender, waiting) = mpsc::unbounded_channel();
        let (metrics, calls) = (metrics.postings.clone(), metrics.store.clone());
        tokio::spawn(run(TimedStore { store, options, metrics, calls }, waiting));
        Self(sender)
    }

    pub(super) fn send(&self, job: Job) -> Result<(), Refusal> {
        self.0.send(job).map_err(|mpsc::error::SendError(job)| {
            job.reply(Err(Refusal::UNAVAILABLE));
            Refusal::UNAVAILABLE
        })
    }
}

/// A store, and the limit of the wait for it.
#[derive(Clone)]
struct TimedStore {
    store: Arc<dyn Store>,
    options: BatchOptions,
    metrics: PostingMetrics,
    calls: StoreMetrics,
}

impl TimedStore {
    async fn post(&self, jobs: &[Job]) -> Result<Vec<PostingResult>, StoreError> {
        let postings: Vec<_> = jobs.iter().map(|job| job.posting.clone()).collect();
        self.metrics.queue.batch(jobs.len());
        let calls = &self.calls.post;
        let answers = self.options.call_store(calls, || self.store.post(&postings)).await?;
        if answers.len() == postings.len() {
            Ok(answers)
        } else {
            Err(StoreError::failed("the store did not answer every posting of a batch"))
        }
    }

    /// Answers jobs. If postings crossed the cap of a session, it is revoked first, once for all of them.
    fn reply(&self, answered: impl IntoIterator<Item = (Job, PostingResult)>) {
        let mut ended: HashMap<KeyId, Vec<(Job, PostingResult)>> = HashMap::new();
        for (job, answer) in answered {
            if let Ok(posted) = &answer {
                self.metrics.posted(&job.posting.action, posted);
            }
            // A refusal of a posting in doubt is not final.
            let is_final = answer.is_ok() || !job.in_doubt;
            match job.posting.key.filter(|_| is_final && ends_session(&answer)) {
                None => job.reply(answer),
                Some(session) => ended.entry(session).or_default().push((job, answer)),
            }
        }
        for (session, answered) in ended {
            // The next batch does not wait for it.
            tokio::spawn(self.clone().reply_after_end(session, answered));
        }
    }

    async fn reply_after_end(self, session: KeyId, answered: Vec<(Job, PostingResult)>) {
        let deadlines = answered.iter().map(|(job, _)| job.deadline);
        let deadline = deadlines.max().unwrap_or_else(Instant::now);
        if let Err(error) = self.end_session(session, deadline).await {
            tracing::error!(
                error = &error as &dyn std::error::Error,
                key = %session,
                "agentkey could not revoke a session at its spend cap; its next charge tries again"
            );
        }
        answered.into_iter().for_each(|(job, answer)| job.reply(answer));
    }

    /// Revokes a session, and retries until the deadline while the store is not available.
    async fn end_session(&self, session: KeyId, deadline: Instant) -> Result<(), StoreError> {
        let change = KeyChange::Revoke { key: session, reason: Some(SPEND_CAP.to_owned()) };
        let rules = Rules::default(); // a revocation asks none
        loop {
            let revoke = || self.store.change_key(&change, &rules);
            match self.options.call_store(&self.calls.change, revoke).await {
                Err(error) if error.is_transient() && Instant::now() < deadline => {
                    sleep(FIRST_PAUSE).await;
                }
                Err(error) => return Err(error),
                Ok(_) => {
                    tracing::info!(key = %session, reason = SPEND_CAP, "agentkey revoked a session");
                    return Ok(());
                }
            }
        }
    }
}

/// Returns whether the cap of a session was crossed, or a posting was refused that would have crossed it.
fn ends_session(answer: &PostingResult) -> bool {
    match answer {
        Ok(posted) => posted.ends_session,
        Err(Refusal::BudgetExceeded(shortfall)) => shortfall.ends_session,
        Err(_) => false,
    }
}

async fn run(store: TimedStore, mut waiting: mpsc::UnboundedReceiver<Job>) {
    let mut jobs = Vec::new();
    let mut blocked = HashSet::new();
    let mut pause = FIRST_PAUSE;
    // Undecided postings are retried with the next batch, while new ones are decided beside them.
    while !jobs.is_empty() || waiting.recv_many(&mut jobs, BATCH).await > 0 {
        let batch = next_batch(&mut jobs, &blocked);
        // Postings that the store left undecided go first into the next attempt.
        let Attempt { mut retry, is_down } = attempt(&store, batch).await;
        let is_done = retry.is_empty();
        blocked.clear();
        blocked.extend(retry.iter().filter(|_| !is_down).map(|job| job.posting.account.clone()));
        retry.iter_mut().for_each(|job| job.in_doubt = true);
        retry.append(&mut jobs);
        while let Ok(job) = waiting.try_recv() {
            retry.push(job);
        }
        jobs = retry;
        if is_done {
            pause = FIRST_PAUSE;
            continue;
        }
        // Each posting is answered by its own deadline, however many are before it.
        let now = Instant::now();
        let late = jobs.extract_if(.., |job| job.deadline <= now).collect::<Vec<_>>();
        late.into_iter().for_each(|job| job.reply(Err(Refusal::UNAVAILABLE)));
        // A pause must not delay postings of other accounts than the blocked ones.
        if !jobs.is_empty()
            && (is_down || jobs.iter().all(|job| blocked.contains(&job.posting.account)))
        {
            if is_down {
                sleep(pause).await;
            } else {
                let more = timeout(pause, waiting.recv_many(&mut jobs, BATCH)).await;
                if more.is_ok_and(|count| count == 0) {
                    // The queue is closed. The remaining postings are retried until their deadline.
                    sleep(pause).await;
                }
            }
            pause = (pause * 2).min(MAX_PAUSE);
        }
    }
}

/// Takes the postings of the next attempt, in order. A blocked account leaves room for the others.
fn next_batch(jobs: &mut Vec<Job>, blocked: &HashSet<AccountId>) -> Vec<Job> {
    if blocked.is_empty() && jobs.len() <= BATCH {
        return std::mem::take(jobs);
    }
    let mut room = BATCH;
    let mut of_blocked: HashMap<AccountId, usize> = HashMap::new();
    let fits = |job: &mut Job| {
        let account = &job.posting.account;
        if room == 0 || of_blocked.get(account) == Some(&BLOCKED_BATCH) {
            return false;
        }
        room -= 1;
        if blocked.contains(account) {
            *of_blocked.entry(account.clone()).or_default() += 1;
        }
        true
    };
    jobs.extract_if(.., fits).collect()
}

/// The result of an attempt.
struct Attempt {
    /// The postings that the store left undecided.
    retry: Vec<Job>,
    /// Whether the store was not available at all.
    is_down: bool,
}

/// Posts a batch, and answers the postings that were decided.
async fn attempt(store: &TimedStore, mut jobs: Vec<Job>) -> Attempt {
    jobs.retain(Job::is_wanted);
    if jobs.is_empty() {
        return Attempt { retry: jobs, is_down: false };
    }
    match store.post(&jobs).await {
        Ok(answers) => {
            let mut retry = Vec::new();
            let decided = jobs.into_iter().zip(answers).filter_map(|(job, answer)| match answer {
                Err(Refusal::Unavailable { .. }) => {
                    retry.push(job);
                    None
                }
                answer => Some((job, answer)),
            });
            store.reply(decided);
            store.metrics.retries.undecided.add(retry.len() as u64);
            Attempt { retry, is_down: false }
        }
        Err(error) if error.is_transient() => {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                postings = jobs.len(),
                "agentkey could not post a batch, and retries it"
            );
            store.metrics.retries.unavailable.add(jobs.len() as u64);
            Attempt { retry: jobs, is_down: true }
        }
        Err(error) => {
            tracing::error!(
                error = &error as &dyn std::error::Error,
                postings = jobs.len(),
                "agentkey could not post a batch, and posts each posting alone"
            );
            store.metrics.retries.rejected.add(jobs.len() as u64);
            let mut retry: Vec<Job> = Vec::new();
            for job in jobs {
                // Postings of one account keep their order.
                if retry.iter().any(|earlier| earlier.posting.account == job.posting.account) {
                    retry.push(job);
                } else {
                    retry.extend(attempt_one(store, job).await);
                }
            }
            Attempt { retry, is_down: true }
        }
    }
}

async fn attempt_one(store: &TimedStore, job: Job) -> Option<Job> {
    match store.post(std::slice::from_ref(&job)).await {
        Ok(answers) => match answers.into_iter().next() {
            None | Some(Err(Refusal::Unavailable { .. })) => {
                store.metrics.retries.undecided.add(1);
                return Some(job);
            }
            Some(answer) => store.reply([(job, answer)]),
        },
        Err(error) if error.is_transient() => {
            store.metrics.retries.unavailable.add(1);
            return Some(job);
        }
        Err(error) => {
            tracing::error!(
                error = &error as &dyn std::error::Error,
                posting = %job.posting.id,
                "agentkey could not post this, and gives up"
            );
            job.reply(Err(Refusal::UNAVAILABLE));
        }
    }
    None
}
