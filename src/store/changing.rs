//! Changes of policy, the same for every database: what is looked at, what is decided, and what is written, in a
//! transaction that has begun.

use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::Changed;
use crate::ledger::{Change, ChangeError, KeyDraft, NewToken, Rules, not_revoked};
use crate::{Account, AccountId, Amount, Balance, Budget, Key, KeyId, KeyPatch, Lineage, TokenHash};

type Outcome<T, S> = Result<Result<T, ChangeError>, <S as Session>::Error>;

/// A transaction of a database, in which the accounts it looks at are locked.
pub(super) trait Session {
    type Error;

    /// The present where nothing is known of an account.
    fn now(&self) -> Timestamp;

    /// A lineage at the account's time, locked, with its holds that have run out ended.
    async fn lineage(&mut self, key: KeyId) -> Result<Option<Lineage>, Self::Error>;

    /// An account rolled to its time, and that time, in the same way.
    async fn account(&mut self, id: &AccountId) -> Result<Option<(Account, Timestamp)>, Self::Error>;

    /// What a key and everything minted from it was charged since then in its account.
    async fn spent_by_key(&mut self, key: &Key, since: Timestamp) -> Result<Amount, Self::Error>;

    async fn spent_by_account(&mut self, account: &AccountId, since: Timestamp) -> Result<Amount, Self::Error>;

    /// What of a key the table cannot hold.
    fn check(&self, _key: &Key) -> Result<(), ChangeError> {
        Ok(())
    }

    /// A new key; answers with its id.
    async fn insert_key(&mut self, key: &Key, hash: &TokenHash) -> Result<KeyId, Self::Error>;

    /// What has changed in the policy of a key that is there.
    async fn put_policy(&mut self, before: &Key, key: &Key) -> Result<(), Self::Error>;

    async fn put_balance(&mut self, key: &Key) -> Result<(), Self::Error>;

    /// An account, changed at `at`; made where it is new.
    async fn put_account(&mut self, account: &Account, at: Timestamp) -> Result<(), Self::Error>;

    /// Gives a key another token, and retires the one it had. No token that was retired before outlives that one.
    async fn put_token(
        &mut self,
        key: &Key,
        token: &NewToken,
        retires_at: Timestamp,
        now: Timestamp,
    ) -> Result<(), Self::Error>;

    async fn put_revoked(&mut self, key: KeyId, at: Timestamp) -> Result<(), Self::Error>;

    /// Marks an account as changed at `at`; makes it where there is none.
    async fn touch(&mut self, id: &AccountId, at: Timestamp) -> Result<(), Self::Error>;

    async fn event(&mut self, event: Event<'_>) -> Result<(), Self::Error>;
}

/// Who got which policy when.
pub(super) struct Event<'a> {
    pub(super) at: Timestamp,
    pub(super) account: &'a AccountId,
    pub(super) key: Option<KeyId>,
    pub(super) kind: &'static str,
    pub(super) detail: Value,
}

pub(super) async fn change<S: Session>(session: &mut S, change: &Change, rules: &Rules) -> Outcome<Changed, S> {
    Ok(match change {
        Change::Create { draft, token } => create(session, draft, token, rules).await?.map(Changed::Key),
        Change::EnsureAccount { account, budget } => {
            ensure_account(session, account, *budget).await?.map(Changed::Account)
        }
        Change::Update { key, patch } => update(session, *key, patch, rules).await?.map(Changed::Key),
        Change::Rotate { key, token, grace } => rotate(session, *key, token, *grace).await?.map(Changed::Key),
        Change::Revoke { key } => revoke(session, *key).await?.map(Changed::Key),
    })
}

async fn create<S: Session>(session: &mut S, draft: &KeyDraft, token: &NewToken, rules: &Rules) -> Outcome<Key, S> {
    let (parent, at) = match draft.parent {
        Some(id) => match session.lineage(id).await?.filter(|it| *it.account_id() == draft.account) {
            Some(parent) => {
                let at = parent.at();
                (Some(parent), at)
            }
            None => return Ok(Err(ChangeError::UnknownKey(id))),
        },
        None => {
            let now = session.now();
            (None, session.account(&draft.account).await?.map_or(now, |(_, at)| at))
        }
    };
    let mut key = match draft.admit(parent.as_ref(), rules, at) {
        Ok(key) => key,
        Err(refused) => return Ok(Err(refused)),
    };
    key.prefix.clone_from(&token.prefix);
    key.start.clone_from(&token.start);
    if let Err(refused) = session.check(&key) {
        return Ok(Err(refused));
    }
    session.touch(&key.account, at).await?;
    key.id = session.insert_key(&key, &token.hash).await?;
    let (account, id, detail) = (&key.account, Some(key.id), described(&key));
    session.event(Event { at, account, key: id, kind: "key.created", detail }).await?;
    Ok(Ok(key))
}

async fn ensure_account<S: Session>(session: &mut S, id: &AccountId, budget: Budget) -> Outcome<Account, S> {
    let known = session.account(id).await?;
    let is_new = known.is_none();
    let now = session.now();
    let (account, at) = known.unwrap_or_else(|| (new_account(id, now), now));
    let before = account.budget;
    let update = match account.admit(budget, at) {
        Ok(update) => update,
        Err(refused) => return Ok(Err(refused)),
    };
    let mut account = update.record;
    if let Some(since) = update.recount_from {
        account.balance.spent = session.spent_by_account(id, since).await?;
        account.balance.since = since;
    }
    if is_new || before != account.budget {
        session.put_account(&account, at).await?;
        let detail = json!({"limit_micros": budget.limit.map(Amount::as_micros), "period": budget.period});
        session.event(Event { at, account: id, key: None, kind: "account.updated", detail }).await?;
    }
    Ok(Ok(account))
}

async fn update<S: Session>(session: &mut S, id: KeyId, patch: &KeyPatch, rules: &Rules) -> Outcome<Key, S> {
    let Some(lineage) = session.lineage(id).await? else { return Ok(Err(ChangeError::UnknownKey(id))) };
    let admitted = patch.admit(&lineage, parent_of(&lineage).as_ref(), rules);
    let update = match admitted.and_then(|update| session.check(&update.record).map(|()| update)) {
        Ok(update) => update,
        Err(refused) => return Ok(Err(refused)),
    };
    let mut key = update.record;
    if let Some(since) = update.recount_from {
        key.balance.spent = session.spent_by_key(&key, since).await?;
        key.balance.since = since;
        session.put_balance(&key).await?;
    }
    if key != *lineage.key() {
        session.put_policy(lineage.key(), &key).await?;
        changed(session, &lineage, "key.updated", described(&key)).await?;
    }
    Ok(Ok(key))
}

async fn rotate<S: Session>(session: &mut S, id: KeyId, token: &NewToken, grace: Duration) -> Outcome<Key, S> {
    let Some(lineage) = session.lineage(id).await? else { return Ok(Err(ChangeError::UnknownKey(id))) };
    if let Err(refused) = not_revoked(&lineage) {
        return Ok(Err(refused));
    }
    let mut key = lineage.key().clone();
    key.prefix.clone_from(&token.prefix);
    key.start.clone_from(&token.start);
    let retires_at = crate::clock::later(lineage.at(), grace);
    session.put_token(&key, token, retires_at, lineage.at()).await?;
    let detail = json!({"prefix": key.prefix, "start": key.start, "old_retires_at": retires_at});
    changed(session, &lineage, "key.rotated", detail).await?;
    Ok(Ok(key))
}

async fn revoke<S: Session>(session: &mut S, id: KeyId) -> Outcome<Key, S> {
    let Some(lineage) = session.lineage(id).await? else { return Ok(Err(ChangeError::UnknownKey(id))) };
    let mut key = lineage.key().clone();
    if key.revoked_at.is_none() {
        key.revoked_at = Some(lineage.at());
        session.put_revoked(id, lineage.at()).await?;
        changed(session, &lineage, "key.revoked", json!({})).await?;
    }
    Ok(Ok(key))
}

/// Takes note of a change to a key.
async fn changed<S: Session>(
    session: &mut S,
    lineage: &Lineage,
    kind: &'static str,
    detail: Value,
) -> Result<(), S::Error> {
    let (account, at) = (lineage.account_id(), lineage.at());
    session.touch(account, at).await?;
    session.event(Event { at, account, key: Some(lineage.id()), kind, detail }).await
}

/// An account as its first key makes it: without a ceiling.
pub(super) fn new_account(id: &AccountId, now: Timestamp) -> Account {
    let budget = Budget::unlimited();
    let since = budget.period.window(now, now).start;
    Account::stored(id.clone(), budget, now, Balance::empty(since))
}

fn parent_of(lineage: &Lineage) -> Option<Lineage> {
    let (parent, ancestors) = lineage.ancestors().split_first()?;
    Some(Lineage::new(parent.clone(), ancestors.to_vec(), lineage.account().clone(), lineage.at()))
}

fn described(key: &Key) -> Value {
    json!({
        "name": key.name,
        "prefix": key.prefix,
        "start": key.start,
        "parent": key.parent,
        "scopes": key.scopes,
        "limit_micros": key.budget.limit.map(Amount::as_micros),
        "period": key.budget.period,
        "expires_at": key.expires_at,
    })
}
