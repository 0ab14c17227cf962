//! Postings, many in one transaction.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};
use tokio::time::{Instant, sleep, timeout};

use super::options::BatchOptions;
use crate::ledger::{Action, Posted, Posting};
use crate::model::{AccountId, PostingId, Refusal};
use crate::store::{Store, StoreError};

/// At most so many postings in one transaction.
const BATCH: usize = 512;
/// At most so many of an account of which the last attempt left some undecided.
const BLOCKED_BATCH: usize = 16;
const FIRST_PAUSE: Duration = Duration::from_millis(10);
const MAX_PAUSE: Duration = Duration::from_millis(250);

type PostingResult = Result<Posted, Refusal>;

/// The queue has no bound of its own: every job in it has its place in a bounded number of places.
#[derive(Debug)]
pub(super) struct CommitQueue(mpsc::UnboundedSender<Job>);

#[derive(Debug)]
pub(super) struct Job {
    posting: Posting,
    /// Taken when it is answered.
    answer: Option<oneshot::Sender<PostingResult>>,
    /// Until when a store that is not available is asked again.
    deadline: Instant,
    place: Permit,
    /// Whether an earlier attempt may still take effect: the store has not said that it was refused.
    in_doubt: bool,
}

/// The place that a job takes up until it is answered.
#[derive(Debug)]
pub(super) enum Permit {
    /// One of those that wait for an answer.
    Waiting(#[expect(dead_code, reason = "held, not read")] OwnedSemaphorePermit),
    /// That of a charge, kept for its settle.
    Charge(#[expect(dead_code, reason = "held, not read")] Option<Arc<OwnedSemaphorePermit>>),
}

impl Job {
    pub(super) fn new(
        posting: Posting,
        answer: oneshot::Sender<PostingResult>,
        deadline: Instant,
        place: Permit,
    ) -> Self {
        Self { posting, answer: Some(answer), deadline, place, in_doubt: false }
    }

    /// A settle is posted even if nobody waits for the answer.
    fn is_settle(&self) -> bool {
        matches!(self.place, Permit::Charge(_))
    }

    fn is_wanted(&self) -> bool {
        self.is_settle() || self.answer.as_ref().is_some_and(|answer| !answer.is_closed())
    }

    /// The last resort for a charge that could not be posted: everything that is needed to post it by hand. An answer
    /// may have been lost, and not the charge.
    fn log_lost(&self) {
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
                "agentkey could not post a charge; where no entry has the id of the posting, post it by hand"
            );
        }
    }

    fn reply(mut self, answer: PostingResult) {
        // Refused now, it may have been accepted then and be on its way: whoever posted it has to take it back.
        let answer = if self.in_doubt { answer.map_err(|_| Refusal::UNAVAILABLE) } else { answer };
        if self.is_settle() && answer.is_err() {
            self.log_lost();
        }
        if let Some(asker) = self.answer.take() {
            let _ = asker.send(answer);
        }
    }
}

impl Drop for Job {
    /// A settle that is dropped unanswered went down with its runtime.
    fn drop(&mut self) {
        if self.is_settle() && self.answer.is_some() {
            self.log_lost();
        }
    }
}

impl CommitQueue {
    pub(super) fn start(store: Arc<dyn Store>, options: BatchOptions) -> Self {
        let (sender, waiting) = mpsc::unbounded_channel();
        tokio::spawn(run(TimedStore { store, options }, waiting));
        Self(sender)
    }

    pub(super) fn send(&self, job: Job) -> Result<(), Refusal> {
        self.0.send(job).map_err(|mpsc::error::SendError(job)| {
            job.reply(Err(Refusal::UNAVAILABLE));
            Refusal::UNAVAILABLE
        })
    }
}

/// A store, and for how long it is waited for.
struct TimedStore {
    store: Arc<dyn Store>,
    options: BatchOptions,
}

impl TimedStore {
    async fn post(&self, jobs: &[Job]) -> Result<Vec<PostingResult>, StoreError> {
        let postings: Vec<_> = jobs.iter().map(|job| job.posting.clone()).collect();
        let answers = self.options.ask(|| self.store.post(&postings)).await?;
        if answers.len() == postings.len() {
            Ok(answers)
        } else {
            Err(StoreError::failed("the store did not answer every posting"))
        }
    }
}

async fn run(store: TimedStore, mut waiting: mpsc::UnboundedReceiver<Job>) {
    let mut jobs = Vec::new();
    let mut blocked = HashSet::new();
    let mut pause = FIRST_PAUSE;
    // While there is more to do than wait, what could not be decided is tried again beside it.
    while !jobs.is_empty() || waiting.recv_many(&mut jobs, BATCH).await > 0 {
        let batch = next_batch(&mut jobs, &blocked);
        // What a store that is not available leaves unanswered goes first into the next attempt.
        let Attempt { mut again, is_down } = attempt(&store, batch).await;
        let is_done = again.is_empty();
        blocked.clear();
        blocked.extend(again.iter().filter(|_| !is_down).map(|job| job.posting.account.clone()));
        again.iter_mut().for_each(|job| job.in_doubt = true);
        again.append(&mut jobs);
        while let Ok(job) = waiting.try_recv() {
            again.push(job);
        }
        jobs = again;
        if is_done {
            pause = FIRST_PAUSE;
            continue;
        }
        // Nobody waits longer than his own deadline, however many are before him.
        let now = Instant::now();
        let late = jobs.extract_if(.., |job| job.deadline <= now).collect::<Vec<_>>();
        late.into_iter().for_each(|job| job.reply(Err(Refusal::UNAVAILABLE)));
        // Others than what is stuck are not kept waiting.
        if !jobs.is_empty() && (is_down || jobs.iter().all(|job| blocked.contains(&job.posting.account))) {
            if is_down {
                sleep(pause).await;
            } else {
                let more = timeout(pause, waiting.recv_many(&mut jobs, BATCH)).await;
                if more.is_ok_and(|count| count == 0) {
                    sleep(pause).await; // the lane is closed, and what is left is tried to the end
                }
            }
            pause = (pause * 2).min(MAX_PAUSE);
        }
    }
}

/// Takes what goes into the next attempt, in its order: not more of a stuck account than leaves room for others.
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

/// What came of a batch.
struct Attempt {
    /// What the store was not available for.
    again: Vec<Job>,
    /// Whether it was available for nothing.
    is_down: bool,
}

/// Posts and answers.
async fn attempt(store: &TimedStore, mut jobs: Vec<Job>) -> Attempt {
    jobs.retain(Job::is_wanted);
    if jobs.is_empty() {
        return Attempt { again: jobs, is_down: false };
    }
    match store.post(&jobs).await {
        Ok(answers) => {
            let mut again = Vec::new();
            for (job, answer) in jobs.into_iter().zip(answers) {
                match answer {
                    Err(Refusal::Unavailable { .. }) => again.push(job),
                    answer => job.reply(answer),
                }
            }
            Attempt { again, is_down: false }
        }
        Err(error) if error.is_transient() => {
            tracing::warn!(%error, postings = jobs.len(), "agentkey could not post");
            Attempt { again: jobs, is_down: true }
        }
        Err(error) => {
            tracing::error!(%error, postings = jobs.len(), "agentkey could not post; each posting is tried by itself");
            let mut again: Vec<Job> = Vec::new();
            for job in jobs {
                // What waits for its account's turn must not be overtaken.
                if again.iter().any(|earlier| earlier.posting.account == job.posting.account) {
                    again.push(job);
                } else {
                    again.extend(attempt_one(store, job).await);
                }
            }
            Attempt { again, is_down: true }
        }
    }
}

async fn attempt_one(store: &TimedStore, job: Job) -> Option<Job> {
    match store.post(std::slice::from_ref(&job)).await {
        Ok(answers) => match answers.into_iter().next() {
            None | Some(Err(Refusal::Unavailable { .. })) => return Some(job),
            Some(answer) => job.reply(answer),
        },
        Err(error) if error.is_transient() => return Some(job),
        Err(error) => {
            tracing::error!(%error, posting = %job.posting.id, "agentkey gives a posting up");
            job.reply(Err(Refusal::UNAVAILABLE));
        }
    }
    None
}
