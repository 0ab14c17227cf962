//! What a caller that is not the application's own code may change, decided under the store's lock.
//!
//! Nothing that a key does widens what it or another key may do. A new key stays within the caller's
//! lineage as it is at that instant, and a change makes a key narrower.

use jiff::Timestamp;

use crate::model::{
    AccountId, Budget, ChangeError, Cidrs, FieldError, Key, KeyId, Limit, Lineage, RateLimit,
    Refusal, Scope, ScopeSet, Validity,
};

/// The caller of a change, and what the service allows its callers.
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub struct CallerRules {
    pub caller: Caller,
    /// What is shown of the token by which the caller was looked up. A rotation since then changes it.
    pub token_start: Option<String>,
    /// The scope with which a key may manage its whole account. `None`: no key may.
    pub account_scope: Option<Scope>,
    pub minting: Minting,
    pub mint: MintRules,
    /// What the credential of the request allows at most.
    pub ceiling: Ceiling,
}

/// What the credential of a request allows at most, where another issuer made it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Ceiling {
    pub scopes: Option<ScopeSet>,
    pub expires_at: Option<Timestamp>,
}

/// Who asks for a change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Caller {
    /// A key.
    Key(KeyId),
    /// A login of the application, which manages an account.
    Account(AccountId),
}

/// Whether keys may make keys and tokens: mint children, open sessions, and rotate.
///
/// A login of the application may do so in either case.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Minting {
    /// Every key may. This is the default.
    #[default]
    Allowed,
    /// A key needs this scope.
    WithScope(Scope),
    /// No key may: 403 `minting_disabled`.
    Never,
}

/// What holds for every key that callers make.
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub struct MintRules {
    pub max_lifetime: Option<Validity>,
    /// The budget of a new key whose request names none, cut to what its lineage allows.
    pub default_budget: Option<Budget>,
    /// The most that a caller may give a key without a parent. Other keys have the limits of their
    /// lineage.
    pub max_rate_limit: Option<RateLimit>,
    pub max_depth: usize,
    /// The most children in force that a key may have.
    pub max_children: u64,
}

/// The fields that the request for a new key left out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct LeftOut {
    pub scopes: bool,
    pub budget: bool,
    /// The draft's expiry is then cut to the latest, and not refused.
    pub expiry: bool,
}

/// What a caller asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ask {
    Mint,
    Narrow,
    Disable,
    Enable,
    Rotate,
    EndGrace,
    Revoke,
}

/// Where the key is, seen from the caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Itself,
    Below,
    InAccount,
}

impl CallerRules {
    /// Checks that the caller is in force and may ask this of `target`, which is the parent of a
    /// new key.
    ///
    /// `caller` is the lineage of the caller where it is not a member of `target`'s.
    pub(super) fn check(
        &self,
        ask: Ask,
        target: Option<&Lineage>,
        caller: Option<&Lineage>,
        admin_scope: Option<&Scope>,
    ) -> Result<(), ChangeError> {
        let refused = |refusal| Err(ChangeError::Refused(refusal));
        let id = match &self.caller {
            Caller::Account(account) => {
                let is_own = target.is_none_or(|target| target.account_id() == account);
                return if is_own { Ok(()) } else { refused(Refusal::NotFound) };
            }
            Caller::Key(id) => *id,
        };
        let Some(target) = target else { return refused(Refusal::NotFound) };
        let within = target.member(id);
        let caller = within.as_ref().or(caller).filter(|caller| caller.id() == id);
        let Some(caller) = caller else { return refused(Refusal::InvalidKey) };
        let caller = &caller.clone().narrowed(self.ceiling.scopes.as_ref());
        caller.check_active().map_err(ChangeError::Refused)?;
        if self.token_start.as_ref().is_some_and(|start| *start != caller.key().start) {
            return refused(Refusal::RetiringToken);
        }
        let place = if target.id() == id {
            Place::Itself
        } else if within.is_some() {
            Place::Below
        } else if self.manages_account(caller, admin_scope)
            && target.account_id() == caller.account_id()
        {
            Place::InAccount
        } else {
            return refused(Refusal::NotFound);
        };
        if matches!(ask, Ask::Mint | Ask::Rotate) {
            if caller.key().is_session() {
                return refused(Refusal::SessionKey);
            }
            self.minting.check(caller, admin_scope).map_err(ChangeError::Refused)?;
        }
        let beyond = match ask {
            // The caller gets the token.
            Ask::Rotate => self.ceiling.beyond(target, admin_scope),
            // The caller may have the token.
            Ask::Enable if place == Place::Below => {
                self.ceiling.scopes_beyond(target, admin_scope).into_iter().collect()
            }
            _ => Vec::new(),
        };
        beyond_caller(beyond)?;
        match (place, ask) {
            (Place::Itself, Ask::Narrow | Ask::Disable | Ask::Enable) => refused(Refusal::OwnKey),
            // A token of another key, or a key that works again, is more than the caller had.
            (Place::InAccount, Ask::Rotate | Ask::Enable) => refused(Refusal::OutsideSubtree),
            (Place::Below | Place::InAccount, Ask::Mint) => refused(Refusal::NotFound),
            _ => Ok(()),
        }
    }

    /// Returns whether a key may manage its whole account.
    pub(crate) fn manages_account(&self, caller: &Lineage, admin_scope: Option<&Scope>) -> bool {
        self.account_scope.as_ref().is_some_and(|scope| caller.allows(scope, admin_scope))
    }

    /// Gives a new key what its request left out, and checks the rest.
    pub(super) fn mint(
        &self,
        key: &mut Key,
        left_out: LeftOut,
        parent: Option<&Lineage>,
        children: u64,
        (max_depth, admin_scope): (usize, Option<&Scope>),
        now: Timestamp,
    ) -> Result<(), ChangeError> {
        let MintRules { default_budget, max_children, .. } = &self.mint;
        let max_depth = max_depth.min(self.mint.max_depth);
        if parent.map_or(0, Lineage::depth) >= max_depth {
            return Err(ChangeError::Refused(Refusal::TooDeep { max: max_depth }));
        }
        if parent.is_some() && children >= *max_children {
            return Err(ChangeError::Refused(Refusal::TooManyChildren { max: *max_children }));
        }
        let mut beyond = Vec::new();
        let parent = parent.map(|parent| parent.clone().narrowed(self.ceiling.scopes.as_ref()));
        let parent = parent.as_ref();
        if left_out.scopes {
            key.scopes = parent.map_or_else(ScopeSet::none, |parent| parent.scopes(admin_scope));
        } else if let Some(parent) = parent {
            beyond.extend(scopes_beyond(&key.scopes, parent, admin_scope));
        }
        if left_out.budget {
            let default = default_budget.unwrap_or_default();
            key.budget = parent.map_or(default, |parent| cut(default, parent));
        } else if let Some(parent) = parent {
            beyond.extend(budget_beyond(&key.budget, parent));
        }
        match parent {
            Some(parent) => beyond.extend(cidrs_beyond(key.allowed_cidrs.as_ref(), parent)),
            None => beyond.extend(self.rate_beyond(key)),
        }
        let latest = self.latest(parent, now)?;
        if left_out.expiry {
            key.expires_at = key.expires_at.into_iter().chain(latest).min();
        } else {
            beyond.extend(expiry_beyond(key.expires_at, latest));
        }
        beyond_caller(beyond)
    }

    /// Names the rate limit of a key without a parent, if it lets more through than the service gives
    /// every key.
    fn rate_beyond(&self, key: &Key) -> Option<FieldError> {
        let (limit, max) = (key.rate_limit?, self.mint.max_rate_limit?);
        let detail = "lets more through than the service gives a key";
        (!limit.is_within(&max)).then(|| FieldError::new("rate_limit", detail))
    }

    /// Returns the latest end of a new key; `None` where it needs none.
    pub(super) fn latest(
        &self,
        parent: Option<&Lineage>,
        now: Timestamp,
    ) -> Result<Option<Timestamp>, ChangeError> {
        let latest = self.mint.max_lifetime.map(|lifetime| lifetime.after(now)).transpose();
        let latest = latest.map_err(|e| ChangeError::invalid("expires_at", e.to_string()))?;
        let latest = latest.into_iter().chain(parent.and_then(Lineage::expires_at));
        let latest = latest.chain(self.ceiling.expires_at).min();
        Ok(latest.map(|at| crate::model::clock::from_micros(at.as_microsecond())))
    }

    /// Checks that a change leaves a key within what it was, or where the application's own login
    /// asks, within its parent.
    pub(super) fn narrow(
        &self,
        before: &Key,
        key: &Key,
        parent: Option<&Lineage>,
        admin_scope: Option<&Scope>,
        now: Timestamp,
    ) -> Result<(), ChangeError> {
        let mut beyond = Vec::new();
        if let Some(parent) = parent {
            if key.scopes != before.scopes {
                beyond.extend(scopes_beyond(&key.scopes, parent, admin_scope));
            }
            if key.budget != before.budget {
                beyond.extend(budget_beyond(&key.budget, parent));
            }
            if key.allowed_cidrs != before.allowed_cidrs {
                beyond.extend(cidrs_beyond(key.allowed_cidrs.as_ref(), parent));
            }
        } else if key.rate_limit != before.rate_limit {
            beyond.extend(self.rate_beyond(key));
        }
        if key.expires_at != before.expires_at {
            let lifetime = self.mint.max_lifetime.and_then(|lifetime| lifetime.after(now).ok());
            let latest = lifetime.into_iter().chain(parent.and_then(Lineage::expires_at)).min();
            beyond.extend(expiry_beyond(key.expires_at, latest));
        }
        if matches!(self.caller, Caller::Key(_)) {
            for wider in widened(before, key, admin_scope) {
                if !beyond.iter().any(|named| named.field == wider.field) {
                    beyond.push(wider);
                }
            }
        }
        beyond_caller(beyond)
    }
}

impl Ceiling {
    /// Names what of a key is beyond the ceiling.
    fn beyond(&self, target: &Lineage, admin_scope: Option<&Scope>) -> Vec<FieldError> {
        let scopes = self.scopes_beyond(target, admin_scope);
        let expiry = expiry_beyond(target.expires_at(), self.expires_at);
        scopes.into_iter().chain(expiry).collect()
    }

    /// Names the scopes, if a key may do more than the ceiling allows.
    fn scopes_beyond(&self, target: &Lineage, admin_scope: Option<&Scope>) -> Option<FieldError> {
        let within = target.clone().narrowed(self.scopes.as_ref());
        scopes_beyond(&target.scopes(admin_scope), &within, admin_scope)
    }
}

impl Minting {
    /// Checks that a key may make keys and tokens.
    pub(crate) fn check(
        &self,
        caller: &Lineage,
        admin_scope: Option<&Scope>,
    ) -> Result<(), Refusal> {
        match self {
            Self::Allowed => Ok(()),
            Self::Never => Err(Refusal::MintingDisabled),
            Self::WithScope(scope) if caller.allows(scope, admin_scope) => Ok(()),
            Self::WithScope(scope) => {
                let (required, held) = (vec![scope.clone()], caller.scopes(admin_scope));
                Err(Refusal::InsufficientScope(Box::new(crate::model::MissingScope {
                    required,
                    held,
                })))
            }
        }
    }
}

fn beyond_caller(beyond: Vec<FieldError>) -> Result<(), ChangeError> {
    match beyond.is_empty() {
        true => Ok(()),
        false => Err(ChangeError::Refused(Refusal::BeyondCaller(beyond))),
    }
}

/// Names each scope that the parent's lineage does not allow.
fn scopes_beyond(
    scopes: &ScopeSet,
    parent: &Lineage,
    admin_scope: Option<&Scope>,
) -> Option<FieldError> {
    let allowed = parent.scopes(admin_scope);
    if scopes.is_within(&allowed) || admin_scope.is_some_and(|all| parent.allows(all, None)) {
        return None;
    }
    let detail = if scopes.is_unrestricted() {
        "is null, which is unrestricted, and the key that it is minted from is not".to_owned()
    } else {
        let extra: Vec<_> = scopes.iter().filter(|scope| !allowed.allows(scope)).collect();
        let extra: ScopeSet = extra.into_iter().cloned().collect();
        format!("has what the key that it is minted from may not do: {extra}")
    };
    Some(FieldError::new("scopes", detail))
}

/// Names each period whose limit is above that of a member of the parent's lineage, in the same or
/// a longer period. It shows no figure, because the member may be another's.
pub(super) fn budget_beyond(budget: &Budget, parent: &Lineage) -> Option<FieldError> {
    let above = |limit: &Limit| tightest(*limit, parent) < limit.amount;
    let periods: Vec<_> =
        budget.limits().filter(above).map(|limit| limit.period.as_str()).collect();
    let detail = || {
        let periods = periods.join(" and ");
        format!(
            "the limit for each {periods} is above what the keys that it is minted from may spend"
        )
    };
    (!periods.is_empty()).then(|| FieldError::new("budgets", detail()))
}

/// Returns a limit's amount, or the least that a member of the lineage may spend in the same or a
/// longer period, if that is less.
fn tightest(limit: Limit, parent: &Lineage) -> crate::model::Amount {
    let above = parent.keys().flat_map(|key| key.budget.limits().collect::<Vec<_>>());
    let binding = above.filter(|max| limit.period.is_shorter_or_equal(max.period));
    binding.map(|max| max.amount).chain([limit.amount]).min().unwrap_or(limit.amount)
}

/// Returns the budget with each limit cut to what the parent's lineage may spend.
fn cut(budget: Budget, parent: &Lineage) -> Budget {
    let cut = |budget: Budget, limit: Limit| budget.and(tightest(limit, parent), limit.period);
    budget.limits().fold(Budget::unlimited(), cut)
}

/// Says that a key could be used from where a member of the parent's lineage may not. It shows no range,
/// because the member may be another's.
pub(super) fn cidrs_beyond(ranges: Option<&Cidrs>, parent: &Lineage) -> Option<FieldError> {
    let ranges = ranges?;
    let mut above = parent.keys().filter_map(|key| key.allowed_cidrs.as_ref());
    let detail =
        "go beyond the addresses of the key that it is minted from; leave them out for the same";
    (!above.all(|above| ranges.is_within(above))).then(|| FieldError::new("allowed_cidrs", detail))
}

fn expiry_beyond(expires_at: Option<Timestamp>, latest: Option<Timestamp>) -> Option<FieldError> {
    let latest = latest?;
    if expires_at.is_some_and(|at| at <= latest) {
        return None;
    }
    let detail = match expires_at {
        Some(_) => "is later than the caller and the service allow; leave it out for the latest",
        None => "is null, and the caller or the service allows no key without an end",
    };
    Some(FieldError::new("expires_at", detail))
}

/// Names each field that allows more than before.
fn widened(before: &Key, key: &Key, admin_scope: Option<&Scope>) -> Vec<FieldError> {
    let mut wider = Vec::new();
    let allowed_all = admin_scope.is_some_and(|all| before.scopes.allows(all));
    if !allowed_all && !key.scopes.is_within(&before.scopes) {
        wider.push(FieldError::new("scopes", "may only become fewer"));
    }
    let is_kept = |old: Limit| {
        key.budget.limits().any(|new| new.period == old.period && new.amount <= old.amount)
    };
    if !before.budget.limits().all(is_kept) {
        let detail =
            "may only become lower: each limit stays, with its period, and no amount rises";
        wider.push(FieldError::new("budgets", detail));
    }
    let is_faster = match (before.rate_limit, key.rate_limit) {
        (None, _) => false,
        (Some(old), new) => !new.is_some_and(|new| new.is_within(&old)),
    };
    if is_faster {
        wider.push(FieldError::new("rate_limit", "may only become lower"));
    }
    let is_elsewhere = match (&before.allowed_cidrs, &key.allowed_cidrs) {
        (None, _) => false,
        (Some(old), new) => !new.as_ref().is_some_and(|new| new.is_within(old)),
    };
    if is_elsewhere {
        wider.push(FieldError::new("allowed_cidrs", "may only become fewer addresses"));
    }
    let is_later = match (before.expires_at, key.expires_at) {
        (None, _) => false,
        (Some(_), None) => true,
        (Some(old), Some(new)) => new > old,
    };
    if is_later {
        wider.push(FieldError::new("expires_at", "may only become earlier"));
    }
    wider
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::{KeyChange, Loaded, Rules};
    use crate::model::{Account, Actor, Balance, Origin};

    #[test]
    fn the_event_of_a_change_says_who_made_it() {
        let (at, account) = (Timestamp::UNIX_EPOCH, AccountId::new("acme").unwrap());
        let balance = Balance::empty(&Budget::unlimited(), at, at);
        let key = Key::stored(KeyId::new(7), account.clone(), at, balance);
        let lineage = Lineage::new(key, Vec::new(), Account::new(account.clone(), at), at);
        let change = KeyChange::Revoke { key: KeyId::new(7), reason: None };
        let by = |caller: Option<Caller>, named: Actor| {
            let mint = MintRules {
                max_lifetime: None,
                default_budget: None,
                max_rate_limit: None,
                max_depth: 8,
                max_children: 1,
            };
            let (account_scope, minting) = (None, Minting::Never);
            let token_start = None;
            let caller = caller.map(|caller| CallerRules {
                caller,
                token_start,
                account_scope,
                minting,
                mint,
                ceiling: Ceiling::default(),
            });
            let loaded = Loaded {
                lineage: Some(lineage.clone()),
                caller: None,
                children: 0,
                descendants: 0,
                in_grace: 0,
                time: at,
            };
            let rules = Rules { caller, origin: Origin::by(named), ..Rules::default() };
            let write = change.decide(&loaded, &rules).unwrap();
            write.record.unwrap().1.origin.actor
        };
        let (own, login) = (Caller::Key(KeyId::new(7)), Caller::Account(account.clone()));
        let (nobody, ops) = (Actor::Application, Actor::principal("ops"));
        assert_eq!(by(Some(own.clone()), nobody.clone()), Actor::Key { id: KeyId::new(7) });
        assert_eq!(by(Some(login), nobody.clone()), Actor::Principal { name: None });
        assert_eq!(by(None, nobody.clone()), nobody);
        assert_eq!(by(Some(own), ops.clone()), ops, "a login that stands for a key");
    }
}
