//! Keys as their callers see them.

use super::principal::Requester;
use super::wire::{self, State};
use crate::ledger::Caller;
use crate::model::{Key, Lineage, Refusal, Scope};

/// Returns a key as this caller sees it: without the names and the figures of what is above the
/// caller.
pub(super) fn key(
    lineage: &Lineage,
    requester: &Requester,
    admin_scope: Option<&Scope>,
) -> wire::Key {
    let key = lineage.key();
    let parent = match requester.caller {
        Caller::Key(own) if own == key.id => None,
        _ => key.parent,
    };
    // What a key sees of itself is what this request may do.
    let effective_scopes = match requester.caller {
        Caller::Key(own) if own == key.id => {
            lineage.clone().narrowed(requester.ceiling.scopes.as_ref()).scopes(admin_scope)
        }
        _ => lineage.scopes(admin_scope),
    };
    wire::Key {
        id: key.id,
        parent,
        name: key.name.clone(),
        prefix: key.prefix.clone(),
        start: key.start.clone(),
        state: state(lineage),
        scopes: key.scopes.clone(),
        subject: key.subject.clone(),
        effective_scopes,
        budgets: budgets(lineage),
        rate_limit: key.rate_limit,
        allowed_cidrs: key.allowed_cidrs.clone(),
        remaining_cents: lineage.remaining(),
        created_at: key.created_at,
        expires_at: key.expires_at,
        effective_expires_at: lineage.expires_at(),
        disabled_at: key.disabled_at,
        revoked_at: key.revoked_at,
        revoked_reason: key.revoked_reason.clone(),
        delegated_by: lineage.delegated_by().map(str::to_owned),
        metadata: key.metadata.clone(),
    }
}

/// Returns whether a key works, by its own record and those of its ancestors.
pub(super) fn state(lineage: &Lineage) -> State {
    let refusals: Vec<_> =
        lineage.keys().filter_map(|key| key.check_active(lineage.at()).err()).collect();
    if refusals.contains(&Refusal::RevokedKey) {
        State::Revoked
    } else if refusals.contains(&Refusal::ExpiredKey) {
        State::Expired
    } else if refusals.contains(&Refusal::DisabledKey) {
        State::Disabled
    } else {
        State::Active
    }
}

pub(super) fn budgets(lineage: &Lineage) -> Vec<wire::Budget> {
    let key = lineage.key();
    let own = key.budget.limits().map(|limit| wire::Budget::Key {
        period: limit.period,
        limit_cents: limit.amount,
        spent_cents: key.balance.spent_in(limit.period).unwrap_or_default(),
        held_cents: key.balance.held,
        remaining_cents: limit.remaining(&key.balance),
        resets_at: limit.period.window(key.anchor, lineage.at()).end,
    });
    let above = lineage.ancestors().iter().map(Key::remaining);
    let above = above.chain([lineage.account().remaining()]).flatten().min();
    let above = above.filter(|left| key.remaining().is_none_or(|own| *left < own));
    let above = above.map(|remaining_cents| wire::Budget::Inherited { remaining_cents });
    own.chain(above).collect()
}
