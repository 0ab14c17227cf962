//! Policy changes as pure functions. A store loads, these functions decide, and the store writes
//! the result.

use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::caller::{Ask, Caller, CallerRules, LeftOut};
use super::checks::{
    check_budget, check_budget_within, check_cidrs_within, check_delegator, check_expiry_within,
    check_name, check_rate_limit, check_scopes_within, check_start, check_text, inherit_delegator,
};
use super::subjects::{Actor, NewSubject};
use crate::model::key::Expiry;
use crate::model::{
    Account, AccountId, Amount, Balance, Budget, ChangeError, Cidrs, Key, KeyId, KeyPatch, Lineage,
    Metadata, Opening, RateLimit, Refusal, Scope, ScopeSet, Spent, TokenHash,
};

/// The maximum depth of a lineage that a store follows to the root, whatever [`Rules`] say.
pub const MAX_DEPTH: usize = 64;

/// A change of one key.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum KeyChange {
    /// Creates a key.
    Create {
        /// The fields of the key.
        draft: KeyDraft,
        /// Its token.
        token: NewToken,
    },
    /// Creates the key of a subject. If the subject has one, that stays as it is.
    EnsureSubject {
        /// The fields of the key.
        draft: KeyDraft,
        /// Whom it is for.
        subject: NewSubject,
    },
    /// Changes a key.
    Update {
        /// The key.
        key: KeyId,
        /// The changes.
        patch: KeyPatch,
    },
    /// Gives a key another token.
    Rotate {
        /// The key.
        key: KeyId,
        /// The new token.
        token: NewToken,
        /// How long the old token still works.
        grace: Duration,
    },
    /// Ends the tokens of a key that were rotated away and are still in their grace.
    EndGrace {
        /// The key.
        key: KeyId,
    },
    /// Revokes a key, and with it its descendants.
    Revoke {
        /// The key.
        key: KeyId,
        /// Why.
        reason: Option<String>,
    },
}

/// A change of one account.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum AccountChange {
    /// Creates the account with this ceiling. An account that exists stays as it is.
    Ensure(Budget),
    /// Sets the ceiling of an account that exists.
    SetBudget(Budget),
}

/// What a store loads before a change of a key is decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Load<'a> {
    /// The lineage of this key, after the expired holds of its account were ended.
    Lineage(KeyId),
    /// The time of this account, or the store's own where there is no such account.
    Time(&'a AccountId),
}

/// What a store has loaded, under the lock of the account.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The lineage that [`KeyChange::load`] names.
    pub lineage: Option<Lineage>,
    /// The lineage that [`KeyChange::load_caller`] names.
    pub caller: Option<Lineage>,
    /// The children in force of the key that [`KeyChange::count_children`] names: neither revoked
    /// nor expired.
    pub children: u64,
    /// The time that [`Load::Time`] names, or the store's own.
    pub time: Timestamp,
}

/// What a store writes for a change of a key, in one transaction.
#[derive(Clone, Debug)]
pub struct KeyWrite {
    /// The key after the change. The store sets the id of a new one.
    pub key: Key,
    /// The instant of the change.
    pub at: Timestamp,
    /// The part of the key's record to write, and its event. `None`: nothing changed, and nothing
    /// is written.
    ///
    /// Before that, the store creates the account if it is missing, and marks it as changed at
    /// `at`.
    pub record: Option<(KeyRecord, Event)>,
}

/// The part of a key's record that is written.
#[derive(Clone, Debug)]
pub enum KeyRecord {
    /// A new row, with this token.
    Insert(TokenHash),
    /// Name, scopes, budget, rate limit, ranges of addresses, expiry, metadata and whether it is
    /// disabled.
    Update {
        /// The key before the change.
        before: Box<Key>,
        /// See [`AccountWrite::recount`].
        recount: Vec<Spent>,
    },
    /// The token. Tokens that were retired before end no later than the one that is retired now.
    Rotate {
        /// The hash of the new token.
        hash: TokenHash,
        /// When the old token ends.
        retires_at: Timestamp,
    },
    /// The tokens that were retired, all of which end.
    EndGrace,
    /// `revoked_at` and `revoked_reason`.
    Revoke,
}

/// What a store writes for a change of an account, in one transaction.
#[derive(Clone, Debug)]
pub struct AccountWrite {
    /// The account after the change.
    pub account: Account,
    /// The instant of the change.
    pub at: Timestamp,
    /// The windows of new limits.
    ///
    /// The store sets what was spent in each to the sum of the entries that count at its start or
    /// later. The sum is over the record and everything below it.
    pub recount: Vec<Spent>,
    /// The event of the change. `None`: nothing changed, and nothing is written.
    pub event: Option<Event>,
}

/// One line of the audit trail of the account and the key that are written.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Event {
    pub kind: &'static str,
    pub detail: Value,
}

/// What a store keeps of a token.
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub struct NewToken {
    pub hash: TokenHash,
    pub prefix: String,
    pub start: String,
}

/// A key to be created, whose account is loaded.
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub struct KeyDraft {
    pub account: AccountId,
    pub parent: Option<KeyId>,
    pub name: String,
    pub scopes: ScopeSet,
    pub budget: Budget,
    pub rate_limit: Option<RateLimit>,
    pub allowed_cidrs: Option<Cidrs>,
    pub delegated_by: Option<String>,
    pub metadata: Metadata,
    pub(crate) expiry: Expiry,
    /// What a caller's request left out. The application's own code leaves nothing out.
    pub left_out: LeftOut,
}

/// A key to be imported, whose account is loaded.
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub struct ImportDraft {
    pub draft: KeyDraft,
    pub token: NewToken,
    pub opening: Opening,
    pub is_disabled: bool,
}

/// What a store writes for an imported key, in one transaction.
#[derive(Clone, Debug)]
pub struct ImportWrite {
    /// The key. It is written with its [`anchor`](Key::anchor).
    pub write: KeyWrite,
    /// What the key has spent. If it is not zero, the store posts an
    /// [`Opening`](crate::ledger::Action::Opening) of it once the key has its id.
    pub spent: Amount,
}

/// The rules that every store applies to policy changes.
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub struct Rules {
    /// The maximum number of keys in a lineage.
    pub max_depth: usize,
    /// The scope that includes every other one.
    pub admin_scope: Option<Scope>,
    /// The caller, where the change is not that of the application's own code.
    pub caller: Option<CallerRules>,
}

impl Default for Rules {
    fn default() -> Self {
        Self { max_depth: 8, admin_scope: None, caller: None }
    }
}

impl KeyChange {
    /// Returns what [`decide`](Self::decide) needs.
    pub fn load(&self) -> Load<'_> {
        match self {
            Self::Create { draft, .. } | Self::EnsureSubject { draft, .. } => draft.load(),
            Self::Update { key, .. }
            | Self::Rotate { key, .. }
            | Self::EndGrace { key }
            | Self::Revoke { key, .. } => Load::Lineage(*key),
        }
    }

    /// Returns the caller whose lineage is loaded too, because it is not in `lineage`.
    pub fn load_caller(&self, lineage: Option<&Lineage>, rules: &Rules) -> Option<KeyId> {
        let Caller::Key(caller) = rules.caller.as_ref()?.caller else { return None };
        let is_member = lineage.is_some_and(|it| it.keys().any(|key| key.id == caller));
        (!is_member).then_some(caller)
    }

    /// Returns the key whose children in force are counted.
    pub fn count_children(&self, rules: &Rules) -> Option<KeyId> {
        match self {
            Self::Create { draft, .. } if rules.caller.is_some() => draft.parent,
            _ => None,
        }
    }

    /// Decides by what was loaded.
    ///
    /// # Errors
    ///
    /// [`ChangeError::UnknownKey`] where there is no such key. [`ChangeError::Invalid`] where a
    /// field is out of bounds or outside the parent's. [`ChangeError::NotInForce`] where the parent
    /// is not in force, or the key is revoked. [`ChangeError::Refused`] where the caller may not
    /// make the change.
    pub fn decide(&self, loaded: &Loaded, rules: &Rules) -> Result<KeyWrite, ChangeError> {
        let lineage = loaded.lineage.as_ref();
        if let Some(caller) = &rules.caller {
            let target = self.target().map(|key| lineage.ok_or(ChangeError::UnknownKey(key)));
            let (target, admin) = (target.transpose()?, rules.admin_scope.as_ref());
            caller.check(self.ask(), target, loaded.caller.as_ref(), admin)?;
            if let (Caller::Account(own), Self::Create { draft, .. }) = (&caller.caller, self)
                && draft.account != *own
            {
                return Err(ChangeError::UnknownAccount(draft.account.clone()));
            }
        }
        let mut write = self.decide_for(loaded, lineage, rules)?;
        if let (Some(CallerRules { caller, .. }), Some((_, event))) =
            (&rules.caller, &mut write.record)
            && let Some(detail) = event.detail.as_object_mut()
        {
            let by = match caller {
                Caller::Key(key) => json!({ "key": key }),
                Caller::Account(account) => json!({ "account": account }),
            };
            detail.insert("by".to_owned(), by);
        }
        Ok(write)
    }

    fn decide_for(
        &self,
        loaded: &Loaded,
        lineage: Option<&Lineage>,
        rules: &Rules,
    ) -> Result<KeyWrite, ChangeError> {
        let found = |key: &KeyId| lineage.ok_or(ChangeError::UnknownKey(*key));
        match self {
            Self::Create { draft, token } => {
                let parent = draft.parent(lineage)?;
                let now = parent.map_or(loaded.time, Lineage::at);
                draft.create(token, parent, loaded.children, rules, now)
            }
            Self::EnsureSubject { draft, subject } => {
                let parent = draft.parent(lineage)?;
                let now = parent.map_or(loaded.time, Lineage::at);
                subject.create(draft, parent, rules, now)
            }
            Self::Update { key, patch } => patch.update(found(key)?, rules),
            Self::Rotate { key, token, grace } => token.rotate(found(key)?, *grace),
            Self::EndGrace { key } => Ok(end_grace(found(key)?)),
            Self::Revoke { key, reason } => revoke(found(key)?, reason.as_deref()),
        }
    }

    /// Returns the key that is changed, or that a new key is minted from.
    fn target(&self) -> Option<KeyId> {
        match self {
            Self::Create { draft, .. } | Self::EnsureSubject { draft, .. } => draft.parent,
            Self::Update { key, .. }
            | Self::Rotate { key, .. }
            | Self::EndGrace { key }
            | Self::Revoke { key, .. } => Some(*key),
        }
    }

    fn ask(&self) -> Ask {
        match self {
            Self::Create { .. } | Self::EnsureSubject { .. } => Ask::Mint,
            Self::Update { patch, .. } => match patch.is_disabled {
                None => Ask::Narrow,
                Some(true) => Ask::Disable,
                Some(false) => Ask::Enable,
            },
            Self::Rotate { .. } => Ask::Rotate,
            Self::EndGrace { .. } => Ask::EndGrace,
            Self::Revoke { .. } => Ask::Revoke,
        }
    }
}

impl AccountWrite {
    /// Decides a change of an account.
    ///
    /// `loaded` is the account, rolled to its time, and that time. `now` is the store's own time,
    /// for a new account.
    ///
    /// # Errors
    ///
    /// [`ChangeError::Invalid`] where the limit is negative. [`ChangeError::UnknownAccount`] where
    /// the budget of an account is set that does not exist.
    pub fn decide(
        id: &AccountId,
        change: AccountChange,
        loaded: Option<(Account, Timestamp)>,
        now: Timestamp,
    ) -> Result<Self, ChangeError> {
        let (AccountChange::Ensure(budget) | AccountChange::SetBudget(budget)) = change;
        check_budget(&budget)?;
        let is_new = loaded.is_none();
        let (mut account, at) = match (change, loaded) {
            (AccountChange::Ensure(_), Some((account, at))) => {
                return Ok(Self { account, at, recount: Vec::new(), event: None });
            }
            (AccountChange::Ensure(_), None) => (Account::new(id.clone(), now), now),
            (AccountChange::SetBudget(_), Some(loaded)) => loaded,
            (AccountChange::SetBudget(_), None) => {
                return Err(ChangeError::UnknownAccount(id.clone()));
            }
        };
        let recount = account.balance.realign(&budget, account.created_at, at);
        let event = (is_new || account.budget != budget)
            .then(|| Event { kind: "account.updated", detail: json!({"budgets": budget}) });
        account.budget = budget;
        Ok(Self { account, at, recount, event })
    }
}

impl KeyDraft {
    fn load(&self) -> Load<'_> {
        self.parent.map_or(Load::Time(&self.account), Load::Lineage)
    }

    /// Returns the parent that was loaded, if the key is to have one. It is of the key's account.
    fn parent<'l>(&self, loaded: Option<&'l Lineage>) -> Result<Option<&'l Lineage>, ChangeError> {
        let Some(id) = self.parent else { return Ok(None) };
        let parent = loaded.filter(|parent| *parent.account_id() == self.account);
        parent.map(Some).ok_or(ChangeError::UnknownKey(id))
    }

    fn create(
        &self,
        token: &NewToken,
        parent: Option<&Lineage>,
        children: u64,
        rules: &Rules,
        now: Timestamp,
    ) -> Result<KeyWrite, ChangeError> {
        let expires_at = self.expiry.at(now)?;
        let key = self.key(token, parent, children, rules, now, expires_at)?;
        let event = Event { kind: "key.created", detail: event_detail(&key) };
        Ok(KeyWrite { key, at: now, record: Some((KeyRecord::Insert(token.hash), event)) })
    }

    /// Returns the key, inside its parent.
    fn key(
        &self,
        token: &NewToken,
        parent: Option<&Lineage>,
        children: u64,
        rules: &Rules,
        now: Timestamp,
        expires_at: Option<Timestamp>,
    ) -> Result<Key, ChangeError> {
        let balance = Balance::empty(&self.budget, now, now);
        let mut key = Key::stored(KeyId::new(0), self.account.clone(), now, balance);
        key.parent = self.parent;
        key.name.clone_from(&self.name);
        key.scopes = self.scopes.clone();
        key.budget = self.budget;
        key.rate_limit = self.rate_limit;
        key.allowed_cidrs.clone_from(&self.allowed_cidrs);
        key.expires_at = expires_at;
        key.delegated_by.clone_from(&self.delegated_by);
        key.metadata = self.metadata.clone();
        token.set_on(&mut key);
        check_name(&key.name)?;
        check_budget(&key.budget)?;
        check_rate_limit(&key)?;
        if let Some(human) = &key.delegated_by {
            check_delegator(human)?;
        }
        if let Expiry::Within(_) = self.expiry {
            let latest = match &rules.caller {
                Some(caller) => caller.latest(parent, now)?,
                None => parent.and_then(Lineage::expires_at),
            };
            key.expires_at = key.expires_at.into_iter().chain(latest).min();
        }
        if let Some(caller) = &rules.caller {
            let of_handle = (rules.max_depth, rules.admin_scope.as_ref());
            caller.mint(&mut key, self.left_out, parent, children, of_handle, now)?;
            key.balance = Balance::empty(&key.budget, now, now);
        }
        if let Some(parent) = parent {
            if let Some((by, refusal)) = parent.inactive() {
                return Err(ChangeError::NotInForce { key: parent.id(), by, refusal });
            }
            if parent.key().is_session() {
                return Err(ChangeError::invalid("parent", "is a session, which makes no keys"));
            }
            if parent.depth() >= rules.max_depth {
                let reason = format!("a lineage has at most {} keys", rules.max_depth);
                return Err(ChangeError::invalid("parent", reason));
            }
            check_scopes_within(&key, parent, rules.admin_scope.as_ref())?;
            check_budget_within(&key, parent)?;
            check_cidrs_within(&key, parent)?;
            check_expiry_within(&key, parent)?;
            inherit_delegator(&mut key, parent)?;
        }
        Ok(key)
    }
}

impl ImportDraft {
    /// Returns what [`decide`](Self::decide) needs.
    pub fn load(&self) -> Load<'_> {
        self.draft.load()
    }

    /// Decides by the loaded lineage of the parent; for a key without a parent, at `time`.
    ///
    /// Unlike a new key, an imported one may have expired.
    ///
    /// # Errors
    ///
    /// As [`KeyChange::decide`], and [`ChangeError::Invalid`] where the opening is below zero.
    pub fn decide(
        &self,
        parent: Option<&Lineage>,
        time: Timestamp,
        rules: &Rules,
    ) -> Result<ImportWrite, ChangeError> {
        let Self { draft, token, opening, is_disabled } = self;
        let parent = draft.parent(parent)?;
        let now = parent.map_or(time, Lineage::at);
        let expires_at = draft.expiry.resolve(now)?;
        let mut key = draft.key(token, parent, 0, rules, now, expires_at)?;
        check_start(&token.hash, &token.prefix, &token.start)?;
        key.disabled_at = is_disabled.then_some(now);
        let spent = opening
            .spent
            .non_negative()
            .map_err(|error| ChangeError::invalid("spent", error.to_string()))?;
        let resets_at = opening.resets_at.map(truncated);
        key.anchor = resets_at.unwrap_or(now);
        key.balance = Balance::empty(&key.budget, key.anchor, now);
        // The window of a lifetime does not end.
        let is_over = resets_at.is_some_and(|at| at <= now && key.resets_at(now).is_some());
        let spent = if is_over { Amount::ZERO } else { spent };
        let mut detail = event_detail(&key);
        if let Value::Object(detail) = &mut detail {
            detail.insert("spent_micros".to_owned(), spent.as_micros().into());
        }
        let event = Event { kind: "key.imported", detail };
        let write = KeyWrite { key, at: now, record: Some((KeyRecord::Insert(token.hash), event)) };
        Ok(ImportWrite { write, spent })
    }
}

impl KeyPatch {
    fn update(&self, lineage: &Lineage, rules: &Rules) -> Result<KeyWrite, ChangeError> {
        check_not_revoked(lineage)?;
        let at = lineage.at();
        let (before, parent) = (lineage.key(), lineage.parent());
        let check_within = |check: &dyn Fn(&Lineage) -> Result<(), ChangeError>| {
            parent.as_ref().map_or(Ok(()), check)
        };
        let mut key = before.clone();
        if let Some(name) = &self.name {
            check_name(name)?;
            key.name.clone_from(name);
        }
        if let Some(scopes) = &self.scopes {
            key.scopes = scopes.clone();
        }
        if let Some(expiry) = self.expiry {
            key.expires_at = expiry.at(at)?;
        }
        if let Some(metadata) = &self.metadata {
            key.metadata = metadata.clone();
        }
        if let Some(limit) = self.rate_limit {
            key.rate_limit = limit;
            check_rate_limit(&key)?;
        }
        if let Some(ranges) = &self.allowed_cidrs {
            key.allowed_cidrs.clone_from(ranges);
        }
        if let Some(is_disabled) = self.is_disabled {
            key.disabled_at = is_disabled.then(|| key.disabled_at.unwrap_or(at));
        }
        let mut recount = Vec::new();
        if let Some(budget) = self.budget {
            check_budget(&budget)?;
            recount = key.balance.realign(&budget, key.anchor, at);
            key.budget = budget;
        }
        if let Some(caller) = &rules.caller {
            caller.narrow(before, &key, parent.as_ref(), rules.admin_scope.as_ref(), at)?;
        }
        // In a change by the application's own code these are the first to fail.
        if self.scopes.is_some() {
            check_within(&|parent| check_scopes_within(&key, parent, rules.admin_scope.as_ref()))?;
        }
        if self.expiry.is_some() {
            check_within(&|parent| check_expiry_within(&key, parent))?;
        }
        if self.budget.is_some() {
            check_within(&|parent| check_budget_within(&key, parent))?;
        }
        if self.allowed_cidrs.is_some() {
            check_within(&|parent| check_cidrs_within(&key, parent))?;
        }
        let record = (key != *before).then(|| {
            let kind = match (before.disabled_at, key.disabled_at) {
                (None, Some(_)) => "key.disabled",
                (Some(_), None) => "key.enabled",
                _ => "key.updated",
            };
            let event = Event { kind, detail: event_detail(&key) };
            (KeyRecord::Update { before: before.clone().into(), recount }, event)
        });
        Ok(KeyWrite { key, at, record })
    }
}

impl NewToken {
    fn rotate(&self, lineage: &Lineage, grace: Duration) -> Result<KeyWrite, ChangeError> {
        check_not_revoked(lineage)?;
        let (mut key, at) = (lineage.key().clone(), lineage.at());
        if key.is_session() {
            return Err(ChangeError::invalid("key", "is a session, whose token is not rotated"));
        }
        if key.subject.is_some() || key.was_made_for_subject() {
            let reason =
                "is for a subject, whose credential its issuer makes: it has no token to rotate";
            return Err(ChangeError::invalid("key", reason));
        }
        self.set_on(&mut key);
        let retires_at = crate::model::clock::later(at, grace);
        let detail = json!({"prefix": key.prefix, "start": key.start, "old_retires_at": retires_at, "delegated_by": key.delegated_by});
        let event = Event { kind: "key.rotated", detail };
        Ok(KeyWrite {
            key,
            at,
            record: Some((KeyRecord::Rotate { hash: self.hash, retires_at }, event)),
        })
    }

    fn set_on(&self, key: &mut Key) {
        key.prefix.clone_from(&self.prefix);
        key.start.clone_from(&self.start);
    }
}

impl NewSubject {
    /// Returns what the key is found by in place of a token.
    pub fn token(&self) -> NewToken {
        let (hash, prefix) = (self.subject.digest(), Key::SUBJECT_PREFIX.to_owned());
        NewToken { hash, prefix, start: String::new() }
    }

    fn create(
        &self,
        draft: &KeyDraft,
        parent: Option<&Lineage>,
        rules: &Rules,
        now: Timestamp,
    ) -> Result<KeyWrite, ChangeError> {
        let mut write = draft.create(&self.token(), parent, 0, rules, now)?;
        write.key.subject = Some(self.subject.clone());
        if let Some((_, event)) = &mut write.record
            && let Value::Object(detail) = &mut event.detail
        {
            detail.insert("subject".to_owned(), json!(self.subject));
            if !self.actors.is_empty() {
                let actors = self.actors.iter().map(Actor::json);
                detail.insert("act".to_owned(), actors.collect());
            }
        }
        Ok(write)
    }
}

/// Ends the grace of every token that was rotated away. The key stays as it is.
fn end_grace(lineage: &Lineage) -> KeyWrite {
    let (key, at) = (lineage.key().clone(), lineage.at());
    let detail = json!({"delegated_by": key.delegated_by});
    let event = Event { kind: "key.grace_ended", detail };
    KeyWrite { key, at, record: Some((KeyRecord::EndGrace, event)) }
}

/// Revokes a key. A key that is revoked stays as it is, with its first reason.
fn revoke(lineage: &Lineage, reason: Option<&str>) -> Result<KeyWrite, ChangeError> {
    check_text("reason", reason.unwrap_or_default())?;
    let (mut key, at) = (lineage.key().clone(), lineage.at());
    if key.revoked_at.is_some() {
        return Ok(KeyWrite { key, at, record: None });
    }
    key.revoked_at = Some(at);
    key.revoked_reason = reason.map(str::to_owned);
    let detail = json!({"reason": reason, "delegated_by": key.delegated_by});
    let record = Some((KeyRecord::Revoke, Event { kind: "key.revoked", detail }));
    Ok(KeyWrite { key, at, record })
}

/// Checks that neither the key nor an ancestor is revoked. An expired key may be changed and
/// rotated.
fn check_not_revoked(lineage: &Lineage) -> Result<(), ChangeError> {
    match lineage.keys().find(|key| key.revoked_at.is_some()) {
        Some(revoked) => Err(ChangeError::NotInForce {
            key: lineage.id(),
            by: revoked.id,
            refusal: Refusal::RevokedKey,
        }),
        None => Ok(()),
    }
}

impl Expiry {
    /// Returns the instant, which must be in the future.
    fn at(self, now: Timestamp) -> Result<Option<Timestamp>, ChangeError> {
        match self.resolve(now)? {
            Some(at) if at <= now => Err(ChangeError::invalid(
                "expires_at",
                "is not in the future; to end a key now, revoke it",
            )),
            at => Ok(at),
        }
    }

    fn resolve(self, now: Timestamp) -> Result<Option<Timestamp>, ChangeError> {
        match self {
            Self::Never => Ok(None),
            Self::At(at) => Ok(Some(truncated(at))),
            Self::Within(ttl) => Ok(Some(crate::model::clock::later(now, ttl))),
            Self::In(validity) => validity
                .after(now)
                .map(|at| Some(truncated(at)))
                .map_err(|error| ChangeError::invalid("expires_at", error.to_string())),
        }
    }
}

/// Returns the instant as stores keep it, in whole microseconds.
fn truncated(at: Timestamp) -> Timestamp {
    crate::model::clock::from_micros(at.as_microsecond())
}

fn event_detail(key: &Key) -> Value {
    json!({
        "name": key.name,
        "prefix": key.prefix,
        "start": key.start,
        "parent": key.parent,
        "scopes": key.scopes,
        "budgets": key.budget,
        "rate_limit": key.rate_limit,
        "allowed_cidrs": key.allowed_cidrs,
        "expires_at": key.expires_at,
        "delegated_by": key.delegated_by,
        "metadata": key.metadata,
    })
}
