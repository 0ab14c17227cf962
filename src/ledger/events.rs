//! The events of policy changes and postings: what each says, and who acted.

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::caller::{Caller, CallerRules};
use crate::model::{
    Account, Actor, Budget, Difference, Entry, Event, EventKind, Key, KeyId, Lineage, Note, Origin,
};

/// Returns an event about a key, which is `key` after the change. `ancestors` are its own.
pub(super) fn of_key(
    kind: EventKind,
    key: &Key,
    ancestors: &[Key],
    at: Timestamp,
    detail: Value,
) -> Event {
    let path = std::iter::once(key).chain(ancestors).collect();
    of_path(Event::new(at, key.account.clone(), kind, detail), Some(key.id), path)
}

/// Returns the event of a new key, whose id is not known yet.
pub(super) fn of_new_key(
    kind: EventKind,
    key: &Key,
    parent: Option<&Lineage>,
    at: Timestamp,
    detail: Value,
) -> Event {
    let ancestors = parent.into_iter().flat_map(Lineage::keys);
    let path = std::iter::once(key).chain(ancestors).collect();
    let event = Event::new(at, key.account.clone(), kind, detail);
    let mut event = of_path(event, Some(key.id), path);
    event.lineage.remove(0);
    event.key = None;
    event
}

/// Sets the key of an event, and what the keys from it upwards say.
fn of_path(mut event: Event, key: Option<KeyId>, path: Vec<&Key>) -> Event {
    let own = path.first().filter(|own| Some(own.id) == key);
    (event.key, event.key_name) = (key, own.map(|own| own.name.clone()));
    event.lineage = path.iter().map(|key| key.id).collect();
    event.delegated_by = path.iter().find_map(|key| key.delegated_by.clone());
    event
}

/// Returns the event of a change of an account.
pub(super) fn of_account(
    account: &Account,
    budget: &Budget,
    is_new: bool,
    at: Timestamp,
    origin: &Origin,
) -> Event {
    let (kind, detail) = match is_new {
        true => (EventKind::AccountCreated, json!({"budgets": budget})),
        false => {
            let changed = json!({"budgets": {"from": account.budget, "to": budget}});
            (EventKind::AccountUpdated, json!({"changed": changed}))
        }
    };
    let mut event = Event::new(at, account.id.clone(), kind, detail);
    event.origin = origin.clone();
    event
}

/// Returns the fields of a key, for the event of a new one.
pub(super) fn fields(key: &Key) -> Map<String, Value> {
    let fields = json!({
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
        "disabled_at": key.disabled_at,
    });
    match fields {
        Value::Object(fields) => fields,
        _ => Map::new(),
    }
}

/// Returns the fields that differ, each from what to what.
pub(super) fn changes(before: &Key, after: &Key) -> Value {
    let (before, after) = (fields(before), fields(after));
    let changed = before.into_iter().filter_map(|(name, from)| {
        let to = after.get(&name).filter(|to| **to != from)?;
        Some((name, json!({"from": from, "to": to})))
    });
    json!({"changed": Map::from_iter(changed)})
}

/// Returns who acts: the actor that the application names, or else the caller.
pub(super) fn actor(named: &Actor, caller: Option<&CallerRules>, lineages: &[&Lineage]) -> Actor {
    match (named, caller.map(|it| &it.caller)) {
        (Actor::Application, Some(Caller::Key(id))) => {
            let mut keys = lineages.iter().flat_map(|lineage| lineage.keys());
            keys.find(|key| key.id == *id).map_or(Actor::Key { id: *id }, actor_of)
        }
        (Actor::Application, Some(Caller::Account(_))) => Actor::Principal { name: None },
        (named, _) => named.clone(),
    }
}

/// Returns a key as the one who acts.
pub(crate) fn actor_of(key: &Key) -> Actor {
    match &key.subject {
        _ if key.is_session() => Actor::Session { id: key.id },
        Some(subject) => Actor::Subject { id: key.id, subject: subject.clone() },
        None => Actor::Key { id: key.id },
    }
}

/// Returns the event of an adjustment that was accepted.
pub(super) fn of_adjustment(entry: &Entry, path: Vec<&Key>, origin: &Origin) -> Event {
    let detail = json!({
        "entry": entry.id,
        "amount_cents": entry.amount,
        "reason": entry.note.labels.get(Note::REASON),
        "reference": entry.note.reference,
    });
    let event = Event::new(entry.at, entry.account.clone(), EventKind::Adjusted, detail);
    let mut event = of_path(event, entry.key, path);
    event.origin = origin.clone();
    event
}

/// Returns the event of a figure of a balance that was set to what the ledger says.
pub(super) fn of_mended_balance(
    entry: &Entry,
    path: Vec<&Key>,
    difference: &Difference,
    origin: &Origin,
) -> Event {
    let detail = json!({
        "entry": entry.id,
        "figure": difference.figure.as_str(),
        "period": difference.figure.period(),
        "from_cents": difference.stored,
        "to_cents": difference.computed,
    });
    let kind = EventKind::BalanceReconciled;
    let event = Event::new(entry.at, entry.account.clone(), kind, detail);
    let mut event = of_path(event, entry.key, path);
    event.origin = origin.clone();
    event
}

/// Returns the event of a hold that was charged when it expired.
pub(super) fn of_charged_hold(entry: &Entry, path: Vec<&Key>) -> Event {
    let detail = json!({"entry": entry.id, "amount_cents": entry.amount});
    let event = Event::new(entry.at, entry.account.clone(), EventKind::HoldCharged, detail);
    let mut event = of_path(event, entry.key, path);
    let label = |name| entry.note.labels.get(name).map(str::to_owned);
    event.origin = Origin::by(Actor::Ledger);
    (event.origin.route, event.origin.request_id) = (label(Note::ROUTE), label(Note::REQUEST_ID));
    event
}
