//! Subjects: keys of identities that another service issued.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;

use super::agent_keys::{AgentKeys, Inner};
use super::error::Error;
use crate::ledger::{Actor, FirstSeenClaim, KeyChange, KeyDraft, NewSubject};
use crate::model::{Key, Lineage, NewKey, PostingId, Refusal, Subject};
use crate::store::{BoxFuture, Found, Store, StoreResult, unwinding};

impl AgentKeys {
    /// Returns the key of a subject, after it has created one where the subject has none.
    ///
    /// A key that is there stays as it is: its policy, its balance, and whether it is disabled or
    /// revoked. Of many calls at once, in any number of processes, one creates the key. It has no
    /// token: the subject is found by [`find_subject`](Self::find_subject), and by a
    /// [verifier](crate::AgentKeyLayer::verifier) of the layer. `update`, `disable` and `revoke` take
    /// its id.
    ///
    /// ```
    /// use agentkey::identity::Subject;
    /// use agentkey::{AgentKeys, Amount, Budget, MemoryStore, NewKey};
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let keys = AgentKeys::new(MemoryStore::new())?;
    /// let subject = Subject::new("https://issuer.example", "machine-7")?;
    /// let new = || Ok::<_, agentkey::Error>(NewKey::new("acme".parse().unwrap()).name("machine 7"));
    ///
    /// let key = keys.ensure_subject(subject.clone(), new()?).await?;
    /// keys.disable(key.id).await?;
    /// let same = keys.ensure_subject(subject.clone(), new()?.budget(Budget::daily(Amount::units(5)))).await?;
    /// assert_eq!((same.id, same.disabled_at.is_some()), (key.id, true));
    /// assert_eq!(same.subject, Some(subject));
    /// # keys.shutdown().await;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// As for [`create`](Self::create). [`Error::Change`] where the application's own row for the
    /// subject is out of service.
    pub async fn ensure_subject(&self, subject: Subject, new: NewKey) -> Result<Key, Error> {
        self.ensure_seen_subject(subject, Vec::new(), new).await
    }

    /// Creates the key of a subject that was seen with these actors.
    pub(crate) async fn ensure_seen_subject(
        &self,
        subject: Subject,
        actors: Vec<Actor>,
        new: NewKey,
    ) -> Result<Key, Error> {
        let (account, parent) = self.owner_of(&new).await?;
        let draft = KeyDraft::new(account, parent, new);
        let change = KeyChange::EnsureSubject { draft, subject: NewSubject { subject, actors } };
        self.change_key_by(&change, &self.inner().rules).await
    }

    /// Returns the key of a subject, in force or not. See [`Lineage::check_active`].
    ///
    /// # Errors
    ///
    /// [`Error::Refused`] with [`Refusal::Unavailable`] where the store does not answer.
    pub async fn find_subject(&self, subject: &Subject) -> Result<Option<Lineage>, Error> {
        Ok(self.inner().look_up_subject(subject).await?.map(|found| found.lineage.clone()))
    }
}

impl Inner {
    /// Looks the key of a subject up, also a row that the application has for it.
    pub(crate) async fn look_up_subject(
        &self,
        subject: &Subject,
    ) -> Result<Option<Arc<Found>>, Refusal> {
        let digest = subject.digest();
        if let Some(found) = self.batches.try_find_cached(&digest) {
            return Ok(Some(found));
        }
        if let Some(found) = self.batches.find(digest).await? {
            return Ok(Some(found));
        }
        match self.has_row(subject).await? {
            true => self.batches.find(digest).await,
            false => Ok(None),
        }
    }

    /// Returns whether the application has a row for a subject, which may be out of service. It is
    /// found by the subject from then on.
    pub(crate) async fn has_row(&self, subject: &Subject) -> Result<bool, Refusal> {
        self.in_time(|store| store.bind_subject(subject)).await
    }

    /// Takes or renews the claim to make the key of a subject. Returns whether this owner has it.
    pub(crate) async fn claim_first_seen(
        &self,
        subject: &Subject,
        owner: PostingId,
        lease: Duration,
    ) -> Result<bool, Refusal> {
        let claim = FirstSeenClaim { subject: subject.digest(), owner, lease };
        self.in_time(|store| store.claim_first_seen(claim)).await
    }

    /// Ends the claim.
    pub(crate) async fn release_first_seen(
        &self,
        subject: &Subject,
        owner: PostingId,
    ) -> Result<(), Refusal> {
        let claim = FirstSeenClaim { subject: subject.digest(), owner, lease: Duration::ZERO };
        self.in_time(|store| store.release_first_seen(claim)).await
    }

    /// Awaits a call of the store for a request, which is refused where the store does not answer.
    async fn in_time<'a, T>(
        &'a self,
        call: impl FnOnce(&'a dyn Store) -> BoxFuture<'a, StoreResult<T>>,
    ) -> Result<T, Refusal> {
        let called = unwinding(|| call(self.store()));
        match timeout(self.options.batches.timeout(), called).await {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(error)) => {
                tracing::error!(
                    error = &error as &dyn std::error::Error,
                    "agentkey could not look up a subject; its request is answered with 503"
                );
                Err(Refusal::UNAVAILABLE)
            }
            Err(_) => Err(Refusal::UNAVAILABLE),
        }
    }
}
