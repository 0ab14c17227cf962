//! Policy changes as pure functions. A store loads, these functions decide, and the store writes
//! the result.

use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::model::key::Expiry;
use crate::model::{
    Account, AccountId, Amount, Balance, Budget, ChangeError, Key, KeyId, KeyPatch, Lineage,
    Refusal, Scope, ScopeSet, TokenHash,
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
    /// Revokes a key, and with it its descendants.
    Revoke {
        /// The key.
        key: KeyId,
    },
}

/// What a store loads before a change of a key is decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Load<'a> {
    /// The lineage of this key, after the expired holds of its account were ended.
    Lineage(KeyId),
    /// The time of this account, or the store's own where there is no such account.
    Time(&'a AccountId),
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
    /// Name, scopes, budget and expiry.
    Update {
        /// The key before the change.
        before: Box<Key>,
        /// See [`AccountWrite::recount_from`].
        recount_from: Option<Timestamp>,
    },
    /// The token. Tokens that were retired before end no later than the one that is retired now.
    Rotate {
        /// The hash of the new token.
        hash: TokenHash,
        /// When the old token ends.
        retires_at: Timestamp,
    },
    /// `revoked_at`.
    Revoke,
}

/// What a store writes for a change of an account, in one transaction.
#[derive(Clone, Debug)]
pub struct AccountWrite {
    /// The account after the change.
    pub account: Account,
    /// The instant of the change.
    pub at: Timestamp,
    /// The start of the new window, if the period changed.
    ///
    /// The store sets `spent` to the sum of the entries that count at this instant or later. The
    /// sum is over the record and everything below it. `since` is this instant already.
    pub recount_from: Option<Timestamp>,
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
    pub(crate) expiry: Expiry,
}

/// The rules that every store applies to policy changes.
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub struct Rules {
    /// The maximum number of keys in a lineage.
    pub max_depth: usize,
    /// The scope that includes every other one.
    pub admin_scope: Option<Scope>,
}

impl Default for Rules {
    fn default() -> Self {
        Self { max_depth: 8, admin_scope: None }
    }
}

impl KeyChange {
    /// Returns what [`decide`](Self::decide) needs.
    pub fn load(&self) -> Load<'_> {
        match self {
            Self::Create { draft, .. } => {
                draft.parent.map_or(Load::Time(&draft.account), Load::Lineage)
            }
            Self::Update { key, .. } | Self::Rotate { key, .. } | Self::Revoke { key } => {
                Load::Lineage(*key)
            }
        }
    }

    /// Decides by the loaded lineage; for a new key without a parent, at `time`.
    ///
    /// # Errors
    ///
    /// [`ChangeError::UnknownKey`] where there is no such key. [`ChangeError::Invalid`] where a
    /// field is out of bounds or outside the parent's. [`ChangeError::NotInForce`] where the parent
    /// is not in force, or the key is revoked.
    pub fn decide(
        &self,
        lineage: Option<&Lineage>,
        time: Timestamp,
        rules: &Rules,
    ) -> Result<KeyWrite, ChangeError> {
        let loaded = |key: &KeyId| lineage.ok_or(ChangeError::UnknownKey(*key));
        match self {
            Self::Create { draft, token } => {
                let parent = draft.parent.as_ref().map(loaded).transpose()?;
                if let Some(parent) = parent.filter(|parent| *parent.account_id() != draft.account)
                {
                    return Err(ChangeError::UnknownKey(parent.id()));
                }
                draft.create(token, parent, rules, parent.map_or(time, Lineage::at))
            }
            Self::Update { key, patch } => patch.update(loaded(key)?, rules),
            Self::Rotate { key, token, grace } => token.rotate(loaded(key)?, *grace),
            Self::Revoke { key } => Ok(revoke(loaded(key)?)),
        }
    }
}

impl AccountWrite {
    /// Decides a change of an account's ceiling.
    ///
    /// `loaded` is the account, rolled to its time, and that time. `now` is the store's own time,
    /// for a new account.
    ///
    /// # Errors
    ///
    /// [`ChangeError::Invalid`] where the limit is negative.
    pub fn decide(
        id: &AccountId,
        budget: Budget,
        loaded: Option<(Account, Timestamp)>,
        now: Timestamp,
    ) -> Result<Self, ChangeError> {
        check_budget(&budget)?;
        let is_new = loaded.is_none();
        let (mut account, at) = loaded.unwrap_or_else(|| (Account::new(id.clone(), now), now));
        let recount_from =
            recount(&mut account.balance, &account.budget, &budget, account.created_at, at);
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
        token.set_on(&mut key);
        check_name(&key.name)?;
        check_budget(&key.budget)?;
        if let Some(parent) = parent {
            parent.check_active().map_err(ChangeError::NotInForce)?;
            if parent.depth() >= rules.max_depth {
                let reason = format!("a lineage has at most {} keys", rules.max_depth);
                return Err(ChangeError::invalid("parent", reason));
            }
            check_scopes_within(&key, parent, rules)?;
            check_budget_within(&key, parent)?;
            check_expiry_within(&key, parent)?;
        }
        let event = Event { kind: "key.created", detail: event_detail(&key) };
        Ok(KeyWrite { key, at: now, record: Some((KeyRecord::Insert(token.hash), event)) })
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
            check_within(&|parent| check_scopes_within(&key, parent, rules))?;
        }
        if let Some(expiry) = self.expiry {
            key.expires_at = expiry.at(at)?;
            check_within(&|parent| check_expiry_within(&key, parent))?;
        }
        let mut recount_from = None;
        if let Some(budget) = self.budget {
            check_budget(&budget)?;
            recount_from = recount(&mut key.balance, &key.budget, &budget, key.anchor, at);
            key.budget = budget;
            check_within(&|parent| check_budget_within(&key, parent))?;
        }
        let record = (key != *before).then(|| {
            let event = Event { kind: "key.updated", detail: event_detail(&key) };
            (KeyRecord::Update { before: before.clone().into(), recount_from }, event)
        });
        Ok(KeyWrite { key, at, record })
    }
}

impl NewToken {
    fn rotate(&self, lineage: &Lineage, grace: Duration) -> Result<KeyWrite, ChangeError> {
        check_not_revoked(lineage)?;
        let (mut key, at) = (lineage.key().clone(), lineage.at());
        self.set_on(&mut key);
        let retires_at = crate::model::clock::later(at, grace);
        let detail =
            json!({"prefix": key.prefix, "start": key.start, "old_retires_at": retires_at});
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

fn revoke(lineage: &Lineage) -> KeyWrite {
    let (mut key, at) = (lineage.key().clone(), lineage.at());
    let is_revoked = key.revoked_at.is_some();
    key.revoked_at = key.revoked_at.or(Some(at));
    let record = (!is_revoked)
        .then(|| (KeyRecord::Revoke, Event { kind: "key.revoked", detail: json!({}) }));
    KeyWrite { key, at, record }
}

/// Checks that neither the key nor an ancestor is revoked. An expired key may be changed and
/// rotated.
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
            Self::In(validity) => validity
                .after(now)
                .map_err(|error| ChangeError::invalid("expires_at", error.to_string()))?,
        };
        if at > now {
            Ok(Some(crate::model::clock::from_micros(at.as_microsecond())))
        } else {
            Err(ChangeError::invalid(
                "expires_at",
                "is not in the future; to end a key now, revoke it",
            ))
        }
    }
}

/// Starts the new window if the period changes, and returns the instant from which `spent` is
/// counted again.
fn recount(
    balance: &mut Balance,
    old: &Budget,
    new: &Budget,
    anchor: Timestamp,
    now: Timestamp,
) -> Option<Timestamp> {
    let since = (old.period != new.period).then(|| new.period.window(anchor, now).start)?;
    balance.since = since;
    Some(since)
}

fn event_detail(key: &Key) -> Value {
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
        return Err(ChangeError::invalid(
            "name",
            "has at most 255 characters, none of them a control character",
        ));
    }
    Ok(())
}

fn check_budget(budget: &Budget) -> Result<(), ChangeError> {
    budget.validate().map_err(|error| ChangeError::invalid("limit", error.to_string()))
}

fn check_scopes_within(key: &Key, parent: &Lineage, rules: &Rules) -> Result<(), ChangeError> {
    let all = rules.admin_scope.as_ref();
    let allowed = parent.scopes(all);
    if key.scopes.is_within(&allowed) || all.is_some_and(|all| parent.allows(all, None)) {
        return Ok(());
    }
    let reason = format!("go beyond the parent's, which are: {allowed}");
    Err(ChangeError::invalid("scopes", reason))
}

/// Checks that the key's limit is not above an ancestor's in a period that is as long or shorter.
///
/// Such a limit promises what the ancestor can never give. A key without a limit has its ancestors'
/// limits.
fn check_budget_within(key: &Key, parent: &Lineage) -> Result<(), ChangeError> {
    let Some(limit) = key.budget.limit else { return Ok(()) };
    for ancestor in parent.keys() {
        let Some(max) = ancestor.budget.limit else { continue };
        if limit > max && key.budget.period.is_shorter_or_equal(ancestor.budget.period) {
            let reason =
                format!("is above the {max} per {} of key {}", ancestor.budget.period, ancestor.id);
            return Err(ChangeError::invalid("limit", reason));
        }
    }
    Ok(())
}

fn check_expiry_within(key: &Key, parent: &Lineage) -> Result<(), ChangeError> {
    match (key.expires_at, parent.expires_at()) {
        (Some(at), Some(latest)) if at > latest => {
            Err(ChangeError::invalid("expires_at", format!("is after the parent's, {latest}")))
        }
        _ => Ok(()),
    }
}
