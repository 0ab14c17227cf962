//! The first requests of a subject: the hook that says what it gets, asked once.

use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{interval, sleep, timeout};

use super::verifier::Verified;
use crate::engine::AgentKeys;
use crate::engine::agent_keys::Inner;
use crate::ledger::Actor;
use crate::model::{NewKey, PostingId, Refusal, TokenHash};
use crate::store::{BoxFuture, unwinding};

type Hook = dyn Fn(Verified) -> BoxFuture<'static, Result<NewKey, Refusal>> + Send + Sync;

/// How long the claim of a process that does not answer any more keeps others out.
const LEASE: Duration = Duration::from_secs(10);
/// The pause before another process is looked at again that makes the key.
const PAUSE: Duration = Duration::from_millis(25);
/// The longest wait of a first request.
const MAX_WAIT: Duration = Duration::from_secs(30);
/// The most subjects that are seen for the first time at once.
const MAX_FLIGHTS: usize = 1_024;

/// What was made of the first request of a subject; `None` until that is known.
type Outcome = Option<Result<(), Refusal>>;

/// Makes the keys of subjects that were never seen before.
///
/// Concurrent first requests of a subject wait for one call of the hook. Between processes, a claim
/// in the store decides which one calls it.
pub(super) struct FirstSeen {
    hook: Box<Hook>,
    flights: Mutex<HashMap<TokenHash, watch::Receiver<Outcome>>>,
}

/// Removes a flight when its task ends, however it ends.
struct Flight {
    first_seen: Arc<FirstSeen>,
    subject: TokenHash,
}

impl FirstSeen {
    pub(super) fn new<F>(hook: impl Fn(Verified) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Result<NewKey, Refusal>> + Send + 'static,
    {
        let hook = Box::new(move |verified| -> BoxFuture<'static, _> { Box::pin(hook(verified)) });
        Self { hook, flights: Mutex::default() }
    }

    /// Makes the key of a subject, or waits until another request has made it.
    ///
    /// # Errors
    ///
    /// The refusal of the hook, or [`Refusal::Unavailable`].
    pub(super) async fn make(
        self: &Arc<Self>,
        keys: &Arc<Inner>,
        verified: &Arc<Verified>,
    ) -> Result<(), Refusal> {
        let mut outcome = self.join(keys, verified)?;
        match outcome.wait_for(Option::is_some).await {
            Ok(outcome) => outcome.clone().unwrap_or(Err(Refusal::UNAVAILABLE)),
            // The runtime has ended.
            Err(_) => Err(Refusal::UNAVAILABLE),
        }
    }

    /// Joins the flight of a subject. Without one, it takes off: as a task, which the client that
    /// leaves does not end.
    fn join(
        self: &Arc<Self>,
        keys: &Arc<Inner>,
        verified: &Arc<Verified>,
    ) -> Result<watch::Receiver<Outcome>, Refusal> {
        let subject = verified.subject.digest();
        let mut flights = self.flights();
        if let Some(outcome) = flights.get(&subject) {
            return Ok(outcome.clone());
        }
        if flights.len() >= MAX_FLIGHTS {
            tracing::warn!(
                "agentkey sees {MAX_FLIGHTS} subjects for the first time at once, and refuses more"
            );
            return Err(Refusal::UNAVAILABLE);
        }
        let (sender, outcome) = watch::channel(None);
        flights.insert(subject, outcome.clone());
        drop(flights);
        let flight = Flight { first_seen: self.clone(), subject };
        let (keys, verified) = (AgentKeys::from_inner(keys.clone()), verified.clone());
        tokio::spawn(async move {
            let made = timeout(MAX_WAIT, flight.first_seen.claimed(&keys, &verified)).await;
            let made = made.unwrap_or_else(|_| {
                tracing::warn!("the hook `on_first_seen` did not answer in {MAX_WAIT:?}");
                Err(Refusal::UNAVAILABLE)
            });
            drop(flight);
            let _ = sender.send(Some(made));
        });
        Ok(outcome)
    }

    /// Makes the key once no other process does.
    async fn claimed(&self, keys: &AgentKeys, verified: &Arc<Verified>) -> Result<(), Refusal> {
        let (store, subject, owner) = (keys.inner(), &verified.subject, PostingId::new());
        while !store.claim_first_seen(subject, owner, LEASE).await? {
            sleep(PAUSE).await;
            if store.batches.find(subject.digest()).await?.is_some() {
                return Ok(());
            }
        }
        // Another process may have made it before the claim.
        let is_there =
            store.batches.find(subject.digest()).await?.is_some() || store.has_row(subject).await?;
        let made = match is_there {
            true => Ok(()),
            false => tokio::select! {
                made = self.ask(keys, verified) => made,
                () = renew(store, verified, owner) => Err(Refusal::UNAVAILABLE),
            },
        };
        // A claim that is not released ends with its lease.
        let _ = store.release_first_seen(subject, owner).await;
        made
    }

    async fn ask(&self, keys: &AgentKeys, verified: &Arc<Verified>) -> Result<(), Refusal> {
        let subject = verified.subject.clone();
        // A hook that panics keeps no claim.
        let asked = unwinding(|| {
            let asked = (self.hook)(Verified::clone(verified));
            Box::pin(async move { Ok(asked.await) })
        });
        let new = asked.await.map_err(|_| {
            tracing::error!("the hook `on_first_seen` panicked");
            Refusal::UNAVAILABLE
        })??;
        let actors = Actor::chain(verified.claims.get("act"));
        match keys.ensure_seen_subject(subject, actors, new).await {
            Ok(_) => Ok(()),
            Err(error) => match Refusal::from(error) {
                unavailable @ Refusal::Unavailable { .. } => Err(unavailable),
                refusal => {
                    tracing::error!(%refusal, "the key of `on_first_seen` was not made");
                    Err(Refusal::Misconfigured)
                }
            },
        }
    }

    fn flights(&self) -> MutexGuard<'_, HashMap<TokenHash, watch::Receiver<Outcome>>> {
        self.flights.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Renews a claim for as long as the hook works.
async fn renew(keys: &Inner, verified: &Verified, owner: PostingId) {
    let mut ticks = interval(LEASE / 4);
    loop {
        ticks.tick().await;
        // Without the claim, two processes may ask the hook. The store still makes one key.
        let _ = keys.claim_first_seen(&verified.subject, owner, LEASE).await;
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        self.first_seen.flights().remove(&self.subject);
    }
}

impl fmt::Debug for FirstSeen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FirstSeen").field("flights", &self.flights().len()).finish_non_exhaustive()
    }
}
