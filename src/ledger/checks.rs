//! Checks of the fields of a key: by themselves, and against its parent.

use super::caller::{budget_beyond, cidrs_beyond};
use crate::model::{Budget, ChangeError, Key, Lineage, Refusal, Scope, TokenHash};

pub(super) fn check_name(name: &str) -> Result<(), ChangeError> {
    check_text("name", name)
}

/// Checks a text for people.
pub(super) fn check_text(field: &'static str, text: &str) -> Result<(), ChangeError> {
    if text.chars().count() > 255 || text.chars().any(char::is_control) {
        return Err(ChangeError::invalid(
            field,
            "has at most 255 characters, none of them a control character",
        ));
    }
    Ok(())
}

/// Checks what is shown of the token of an imported key. It is not the whole token.
pub(super) fn check_start(hash: &TokenHash, prefix: &str, start: &str) -> Result<(), ChangeError> {
    if start.chars().count() > 64 || start.chars().any(char::is_control) {
        let reason = "has at most 64 characters, none of them a control character";
        return Err(ChangeError::invalid("start", reason));
    }
    let is_whole = |text: &str| TokenHash::digest(text) == *hash;
    match is_whole(start) || is_whole(&format!("{prefix}_{start}")) {
        true => Err(ChangeError::invalid("start", "is the whole token, which must not be kept")),
        false => Ok(()),
    }
}

pub(super) fn check_delegator(human: &str) -> Result<(), ChangeError> {
    match human.trim().is_empty() {
        true => Err(ChangeError::invalid("delegated_by", "is empty; leave it out instead")),
        false => check_text("delegated_by", human),
    }
}

/// Gives a key the delegator of its parent. A child acts for the same human only.
pub(super) fn inherit_delegator(key: &mut Key, parent: &Lineage) -> Result<(), ChangeError> {
    let Some(human) = parent.delegated_by() else { return Ok(()) };
    match &key.delegated_by {
        Some(own) if own != human => {
            Err(ChangeError::invalid("delegated_by", "is inherited from the parent; leave it out"))
        }
        _ => {
            key.delegated_by = Some(human.to_owned());
            Ok(())
        }
    }
}

pub(super) fn check_budget(budget: &Budget) -> Result<(), ChangeError> {
    budget.validate().map_err(|error| ChangeError::invalid("budgets", error.to_string()))
}

pub(super) fn check_rate_limit(key: &Key) -> Result<(), ChangeError> {
    let checked = key.rate_limit.map_or(Ok(()), |limit| limit.validate());
    checked.map_err(|error| ChangeError::invalid("rate_limit", error.to_string()))
}

pub(super) fn check_scopes_within(
    key: &Key,
    parent: &Lineage,
    all: Option<&Scope>,
) -> Result<(), ChangeError> {
    let allowed = parent.scopes(all);
    if key.scopes.is_within(&allowed) || all.is_some_and(|all| parent.allows(all, None)) {
        return Ok(());
    }
    let reason = format!("go beyond the parent's, which are: {allowed}");
    Err(ChangeError::invalid("scopes", reason))
}

/// Checks that no limit of the key is above an ancestor's in a period that is as long or shorter.
///
/// Such a limit promises what the ancestor can never give. A key without a limit has its ancestors'
/// limits. The error names no figure of an ancestor, because the client may be another's.
pub(super) fn check_budget_within(key: &Key, parent: &Lineage) -> Result<(), ChangeError> {
    match budget_beyond(&key.budget, parent) {
        Some(beyond) => Err(ChangeError::invalid("budgets", beyond.detail)),
        None => Ok(()),
    }
}

/// Checks that the key may be used from nowhere where an ancestor may not. A key without ranges has its
/// ancestors'. The error names no range of an ancestor, because the client may be another's.
pub(super) fn check_cidrs_within(key: &Key, parent: &Lineage) -> Result<(), ChangeError> {
    match cidrs_beyond(key.allowed_cidrs.as_ref(), parent) {
        Some(beyond) => Err(ChangeError::invalid("allowed_cidrs", beyond.detail)),
        None => Ok(()),
    }
}

pub(super) fn check_expiry_within(key: &Key, parent: &Lineage) -> Result<(), ChangeError> {
    match (key.expires_at, parent.expires_at()) {
        (Some(at), Some(latest)) if at > latest => {
            Err(ChangeError::invalid("expires_at", format!("is after the parent's, {latest}")))
        }
        _ => Ok(()),
    }
}

/// Checks that neither the key nor an ancestor is revoked. An expired key may be changed and
/// rotated.
pub(super) fn check_not_revoked(lineage: &Lineage) -> Result<(), ChangeError> {
    match lineage.keys().find(|key| key.revoked_at.is_some()) {
        Some(revoked) => Err(ChangeError::NotInForce {
            key: lineage.id(),
            by: revoked.id,
            refusal: Refusal::RevokedKey,
        }),
        None => Ok(()),
    }
}
