//! Changes of policy as pure functions: a store loads, these functions decide, and the store writes what they say.

use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::model::key::Expiry;
use crate::model::{
    Account, AccountId, Amount, Balance, Budget, ChangeError, Key, KeyId, KeyPatch, Lineage, Refusal, Scope, ScopeSet,
    TokenHash,
};

/// The most keys above a key that a store follows to the root, whatever [`Rules`] say.
pub const MAX_DEPTH: usize = 64;

/// A change of one key, asked of a store.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum KeyChange {
    /// Makes a key.
    Create {
        /// What it is to be.
        draft: KeyDraft,
        /// Its token.
        token: NewToken,
    },
    /// Changes a key.
    Update {
        /// Which.
        key: KeyId,
        /// How.
        patch: KeyPatch,
    },
    /// Gives a key another token.
    Rotate {
        /// Which.
        key: KeyId,
        /// The new one.
        token: NewToken,
        /// How long the old one goes on working.
        grace: Duration,
    },
    /// Revokes a key, and with it everything minted from it.
    Revoke {
        /// Which.
        key: KeyId,
    },
}

/// What a store loads before a change of a key is decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Load<'a> {
    /// The lineage of this key, after its account's holds that have run out were ended.
    Lineage(KeyId),
    /// The time of this account; the store's own where there is no such account.
    Time(&'a AccountId),
}

/// What a store writes for a change of a key, in one transaction.
#[derive(Clone, Debug)]
pub struct KeyWrite {
    /// The key as the change leaves it. The store sets the id of a new one.
    pub key: Key,
    /// The instant of the change.
    pub at: Timestamp,
    /// What of the key is written, after its account was marked as changed at `at` (and made where there is none), and
    /// the event that goes with it. `None`: nothing changed, and nothing is written.
    pub record: Option<(KeyRecord, Event)>,
}

/// Which part of a key's record is written.
#[derive(Clone, Debug)]
pub enum KeyRecord {
    /// A new row, with this token.
    Insert(TokenHash),
    /// Name, scopes, budget and expiry.
    Update {
        /// The key as it was.
        before: Box<Key>,
        /// See [`AccountWrite::recount_from`].
        recount_from: Option<Timestamp>,
    },
    /// The token. No token that was retired before lives longer than the one that is retired now.
    Rotate {
        /// The new token.
        hash: TokenHash,
        /// When the old one ends.
        retires_at: Timestamp,
    },
    /// `revoked_at`.
    Revoke,
}

/// What a store writes for a change of an account, in one transaction.
#[derive(Clone, Debug)]
pub struct AccountWrite {
    /// The account as the change leaves it.
    pub account: Account,
    /// The instant of the change.
    pub at: Timestamp,
    /// Set where the period changed: the store sets `spent` to the sum of the entries, of the record and everything
    /// under it, that count at this instant or later. `since` is this instant already.
    pub recount_from: Option<Timestamp>,
    /// The event that goes with it. `None`: nothing changed, and nothing is written.
    pub event: Option<Event>,
}

/// One line of the audit trail, of the account and key that are written.
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

/// A key to be made, with its owner found out.
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub struct KeyDraft {
    pub account: AccountId,
    pub parent: Option<KeyId>,
    pub name: String,
    pub scopes: ScopeSet,
    pub budget: Budget,
    pub(crate) expiry: Expiry,
}

/// What every store holds changes to.
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub struct Rules {
    /// How many keys a lineage may have.
    pub max_depth: usize,
    /// The scope that stands for every other.
    pub admin_scope: Option<Scope>,
}

impl Default for Rules {
    fn default() -> Self {
        Self { max_depth: 8, admin_scope: None }
    }
}

impl KeyChange {
    /// What [`decide`](Self::decide) needs.
    pub fn load(&self) -> Load<'_> {
        match self {
            Self::Create { draft, .. } => draft.parent.map_or(Load::Time(&draft.account), Load::Lineage),
            Self::Update { key, .. } | Self::Rotate { key, .. } | Self::Revoke { key } => Load::Lineage(*key),
        }
    }

    /// Decides by the lineage that was loaded, or, for a new key without a parent, at `time`.
    ///
    /// # Errors
    ///
    /// When the key is unknown, a field is out of bounds or outside the parent's, the parent is not in force, or the
    /// key is revoked.
    pub fn decide(&self, lineage: Option<&Lineage>, time: Timestamp, rules: &Rules) -> Result<KeyWrite, ChangeError> {
        let known = |key: &KeyId| lineage.ok_or(ChangeError::UnknownKey(*key));
        match self {
            Self::Create { draft, token } => {
                let parent = draft.parent.as_ref().map(known).transpose()?;
                if let Some(parent) = parent.filter(|parent| *parent.account_id() != draft.account) {
                    return Err(ChangeError::UnknownKey(parent.id()));
                }
                draft.create(token, parent, rules, parent.map_or(time, Lineage::at))
            }
            Self::Update { key, patch } => patch.update(known(key)?, rules),
            Self::Rotate { key, token, grace } => token.rotate(known(key)?, *grace),
            Self::Revoke { key } => Ok(revoke(known(key)?)),
        }
    }
}

impl AccountWrite {
    /// Decides about the ceiling of an account: `known` is the account, rolled to its time, and that time; `now` is
    /// the store's own, for an account that there is not yet.
    ///
    /// # Errors
    ///
    /// When the limit is negative.
    pub fn decide(
        id: &AccountId,
        budget: Budget,
        known: Option<(Account, Timestamp)>,
        now: Timestamp,
    ) -> Result<Self, ChangeError> {
        check_budget(&budget)?;
        let is_new = known.is_none();
        let (mut account, at) = known.unwrap_or_else(|| (Account::new(id.clone(), now), now));
        let recount_from = recount(&mut account.balance, &account.budget, &budget, account.created_at, at);
        let event = (is_new || account.budget != budget).then(|| {
            let detail = json!({"limit_micros": budget.limit.map(Amount::as_micros), "period": budget.period});
            Event { kind: "account.updated", detail }
        });
        account.budget = budget;
        Ok(Self { account, at, recount_from, event })
    }
}

impl KeyDraft {
    fn create(
        &self,
        token: &NewToken,
        parent: Option<&Lineage>,
        rules: &Rules,
        now: Timestamp,
    ) -> Result<KeyWrite, ChangeError> {
        let mut key = Key::stored(KeyId::new(0), self.account.clone(), now, Balance::empty(now));
        key.parent = self.parent;
        key.name.clone_from(&self.name);
        key.scopes = self.scopes.clone();
        key.budget = self.budget;
        key.expires_at = self.expiry.at(now)?;
        key.balance.since = key.budget.period.window(now, now).start;
        token.put(&mut key);
        check_name(&key.name)?;
        check_budget(&key.budget)?;
        if let Some(parent) = parent {
            parent.check_active().map_err(ChangeError::NotInForce)?;
            if parent.depth() >= rules.max_depth {
                let reason = format!("a lineage has at most {} keys", rules.max_depth);
                return Err(ChangeError::invalid("parent", reason));
            }
            inside_scopes(&key, parent, rules)?;
            inside_budget(&key, parent)?;
            inside_expiry(&key, parent)?;
        }
        let event = Event { kind: "key.created", detail: described(&key) };
        Ok(KeyWrite { key, at: now, record: Some((KeyRecord::Insert(token.hash), event)) })
    }
}

impl KeyPatch {
    fn update(&self, lineage: &Lineage, rules: &Rules) -> Result<KeyWrite, ChangeError> {
        check_not_revoked(lineage)?;
        let at = lineage.at();
        let (before, parent) = (lineage.key(), lineage.parent());
        let inside = |check: &dyn Fn(&Lineage) -> Result<(), ChangeError>| parent.as_ref().map_or(Ok(()), check);
        let mut key = before.clone();
        if let Some(name) = &self.name {
            check_name(name)?;
            key.name.clone_from(name);
        }
        if let Some(scopes) = &self.scopes {
            key.scopes = scopes.clone();
            inside(&|parent| inside_scopes(&key, parent, rules))?;
        }
        if let Some(expiry) = self.expiry {
            key.expires_at = expiry.at(at)?;
            inside(&|parent| inside_expiry(&key, parent))?;
        }
        let mut recount_from = None;
        if let Some(budget) = self.budget {
            check_budget(&budget)?;
            recount_from = recount(&mut key.balance, &key.budget, &budget, key.anchor, at);
            key.budget = budget;
            inside(&|parent| inside_budget(&key, parent))?;
        }
        let record = (key != *before).then(|| {
            let event = Event { kind: "key.updated", detail: described(&key) };
            (KeyRecord::Update { before: before.clone().into(), recount_from }, event)
        });
        Ok(KeyWrite { key, at, record })
    }
}

impl NewToken {
    fn rotate(&self, lineage: &Lineage, grace: Duration) -> Result<KeyWrite, ChangeError> {
        check_not_revoked(lineage)?;
        let (mut key, at) = (lineage.key().clone(), lineage.at());
        self.put(&mut key);
        let retires_at = crate::model::clock::later(at, grace);
        let detail = json!({"prefix": key.prefix, "start": key.start, "old_retires_at": retires_at});
        let event = Event { kind: "key.rotated", detail };
        Ok(KeyWrite { key, at, record: Some((KeyRecord::Rotate { hash: self.hash, retires_at }, event)) })
    }

    fn put(&self, key: &mut Key) {
        key.prefix.clone_from(&self.prefix);
        key.start.clone_from(&self.start);
    }
}

fn revoke(lineage: &Lineage) -> KeyWrite {
    let (mut key, at) = (lineage.key().clone(), lineage.at());
    let is_revoked = key.revoked_at.is_some();
    key.revoked_at = key.revoked_at.or(Some(at));
    let record = (!is_revoked).then(|| (KeyRecord::Revoke, Event { kind: "key.revoked", detail: json!({}) }));
    KeyWrite { key, at, record }
}

/// A key may get another token or another policy when it is expired, but not when it or an ancestor is revoked.
fn check_not_revoked(lineage: &Lineage) -> Result<(), ChangeError> {
    match lineage.keys().any(|key| key.revoked_at.is_some()) {
        true => Err(ChangeError::NotInForce(Refusal::RevokedKey)),
        false => Ok(()),
    }
}

impl Expiry {
    fn at(self, now: Timestamp) -> Result<Option<Timestamp>, ChangeError> {
        let at = match self {
            Self::Never => return Ok(None),
            Self::At(at) => at,
            Self::In(validity) => {
                validity.after(now).map_err(|error| ChangeError::invalid("expires_at", error.to_string()))?
            }
        };
        if at > now {
            Ok(Some(crate::model::clock::from_micros(at.as_microsecond())))
        } else {
            Err(ChangeError::invalid("expires_at", "is not in the future; to end a key now, revoke it"))
        }
    }
}

/// Where the period changes, starts its window and tells from when on `spent` is to be counted.
fn recount(balance: &mut Balance, old: &Budget, new: &Budget, anchor: Timestamp, now: Timestamp) -> Option<Timestamp> {
    let since = (old.period != new.period).then(|| new.period.window(anchor, now).start)?;
    balance.since = since;
    Some(since)
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

fn check_name(name: &str) -> Result<(), ChangeError> {
    if name.chars().count() > 255 || name.chars().any(char::is_control) {
        return Err(ChangeError::invalid("name", "has at most 255 characters, none of them a control character"));
    }
    Ok(())
}

fn check_budget(budget: &Budget) -> Result<(), ChangeError> {
    budget.validate().map_err(|error| ChangeError::invalid("limit", error.to_string()))
}

fn inside_scopes(key: &Key, parent: &Lineage, rules: &Rules) -> Result<(), ChangeError> {
    let all = rules.admin_scope.as_ref();
    let allowed = parent.scopes(all);
    if key.scopes.is_within(&allowed) || all.is_some_and(|all| parent.allows(all, None)) {
        return Ok(());
    }
    let reason = format!("go beyond the parent's, which are: {allowed}");
    Err(ChangeError::invalid("scopes", reason))
}

/// A limit above an ancestor's, in a period as short, promises what the ancestor can never give. No limit of its
/// own promises nothing: the ancestors' limits hold.
fn inside_budget(key: &Key, parent: &Lineage) -> Result<(), ChangeError> {
    let Some(limit) = key.budget.limit else { return Ok(()) };
    for ancestor in parent.keys() {
        let Some(most) = ancestor.budget.limit else { continue };
        if limit > most && key.budget.period.is_shorter_or_equal(ancestor.budget.period) {
            let reason = format!("is above the {most} per {} of key {}", ancestor.budget.period, ancestor.id);
            return Err(ChangeError::invalid("limit", reason));
        }
    }
    Ok(())
}

fn inside_expiry(key: &Key, parent: &Lineage) -> Result<(), ChangeError> {
    match (key.expires_at, parent.expires_at()) {
        (Some(at), Some(latest)) if at > latest => {
            Err(ChangeError::invalid("expires_at", format!("is after the parent's, {latest}")))
        }
        _ => Ok(()),
    }
}
