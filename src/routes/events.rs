//! `GET /keys/me/events` and `GET /keys/{id}/events`: what was done to a key and its descendants.

use axum::extract::{Request, State as StateOf};
use axum::response::Response;
use http::StatusCode;
use jiff::Timestamp;
use serde_json::Value;

use super::keys::{PathId, key_id, visible};
use super::principal::{Requester, State};
use super::query::{List, Params, encode};
use super::shared::{Shared, json};
use super::wire::{self, EventPage};
use crate::http::Rejection;
use crate::ledger::Caller;
use crate::model::{Actor, Event, EventKind, KeyId, Refusal};
use crate::store::{Cursor, EventQuery};

/// `GET /keys/me/events`
pub(super) async fn of_caller(
    StateOf(shared): State,
    request: Request,
) -> Result<Response, Rejection> {
    let shared = shared.of_request(&request);
    let requester = Requester::of(request.extensions(), &shared).await?;
    let asked = Asked::read(&request).map_err(|refusal| shared.refuse(refusal))?;
    let key = match requester.caller {
        Caller::Key(own) => Some(own),
        Caller::Account(_) => None,
    };
    page(asked, key, &requester, &shared).await
}

/// `GET /keys/{id}/events`
pub(super) async fn of_key(
    StateOf(shared): State,
    id: PathId,
    request: Request,
) -> Result<Response, Rejection> {
    let shared = shared.of_request(&request);
    let requester = Requester::of(request.extensions(), &shared).await?;
    let asked = Asked::read(&request).map_err(|refusal| shared.refuse(refusal))?;
    let key = key_id(id).map_err(|refusal| shared.refuse(refusal))?;
    visible(key, &requester, &shared).await?;
    page(asked, Some(key), &requester, &shared).await
}

async fn page(
    asked: Asked,
    key: Option<KeyId>,
    requester: &Requester,
    shared: &Shared,
) -> Result<Response, Rejection> {
    let mut query = EventQuery::for_account(requester.account.clone()).limit(asked.limit);
    (query.key, query.with_descendants) = (key, key.is_some());
    query.kinds.extend(asked.kind);
    (query.since, query.until, query.after) = (asked.since, asked.until, asked.after);
    let page = shared.keys.events(&query).await.map_err(|error| shared.reject(error))?;
    let own = match requester.caller {
        Caller::Key(own) if !requester.manages_account(shared) => Some(own),
        _ => None,
    };
    let events = page.items.into_iter().map(|event| seen_by(own, event)).collect();
    let next_cursor = page.next.map(|next| encode(List::Events, &next.get().to_string()));
    Ok(json(StatusCode::OK, &EventPage { events, next_cursor }))
}

/// Returns an event as a key sees it, or a caller that manages the account: without what is above the
/// key.
fn seen_by(own: Option<KeyId>, mut event: Event) -> wire::Event {
    if own.is_some()
        && event.key == own
        && let Some(parent) = event.detail.get_mut("parent")
    {
        *parent = Value::Null;
    }
    let mut lineage = event.lineage;
    if let Some(end) = own.and_then(|own| lineage.iter().position(|id| *id == own)) {
        lineage.truncate(end + 1);
    }
    let is_seen = own.is_none()
        || match &event.origin.actor {
            Actor::Key { id } | Actor::Session { id } | Actor::Subject { id, .. } => {
                lineage.contains(id)
            }
            Actor::Ledger | Actor::Signup => true,
            _ => false,
        };
    wire::Event {
        at: event.at,
        kind: event.kind,
        key: event.key,
        key_name: event.key_name,
        lineage,
        delegated_by: event.delegated_by,
        actor: is_seen.then_some(event.origin.actor),
        request_id: event.origin.request_id.filter(|_| is_seen),
        route: event.origin.route.filter(|_| is_seen),
        count: event.count,
        detail: event.detail,
    }
}

/// What a request asks for.
struct Asked {
    kind: Option<EventKind>,
    since: Option<Timestamp>,
    until: Option<Timestamp>,
    limit: u32,
    after: Option<Cursor>,
}

impl Asked {
    fn read(request: &Request) -> Result<Self, Refusal> {
        let mut params = Params::read(request.uri())?;
        let kind = params.value("kind", |text| {
            text.parse().map_err(|_| "is a kind of event, such as key.revoked".to_owned())
        });
        let (since, until) = (params.instant("since"), params.instant("until"));
        let limit = params.limit();
        let after = params.cursor(List::Events).map(|after| after.parse().map(Cursor::new));
        if matches!(after, Some(Err(_))) {
            params.error("cursor", "is of no page");
        }
        params.finish()?;
        Ok(Self { kind, since, until, limit, after: after.and_then(Result::ok) })
    }
}
