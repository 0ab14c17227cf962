//! Changes of a key's fields.

use super::rules::Rules;
use super::writes::{KeyRecord, KeyWrite};
use crate::ledger::checks::{
    check_budget, check_budget_within, check_cidrs_within, check_expiry_within, check_name,
    check_not_revoked, check_rate_limit, check_scopes_within,
};
use crate::ledger::events;
use crate::model::{ChangeError, EventKind, KeyPatch, Lineage};

impl KeyPatch {
    pub(super) fn update(&self, lineage: &Lineage, rules: &Rules) -> Result<KeyWrite, ChangeError> {
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
                (None, Some(_)) => EventKind::KeyDisabled,
                (Some(_), None) => EventKind::KeyEnabled,
                _ => EventKind::KeyUpdated,
            };
            let detail = events::changes(before, &key);
            let event = events::of_key(kind, &key, lineage.ancestors(), at, detail);
            (KeyRecord::Update { before: before.clone().into(), recount }, event)
        });
        Ok(KeyWrite { key, at, record })
    }
}
