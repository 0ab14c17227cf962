//! The routes of sessions: open one, look at itself, end it.

use std::time::Duration;

use axum::extract::{Path, Request, State as StateOf, rejection::PathRejection};
use axum::response::Response;
use http::StatusCode;

use super::fields::Fields;
use super::principal::{Requester, State};
use super::shared::{Shared, json};
use super::view;
use super::wire::{self, SessionRequest, Usd};
use crate::engine::sessions::NewSession;
use crate::engine::{AgentKeys, Error};
use crate::http::Rejection;
use crate::ledger::{Caller, KeyChange};
use crate::model::{Amount, ChangeError, Lineage, Refusal, Scope, SessionId};

type Answer = Result<Response, Rejection>;
type PathId = Result<Path<String>, PathRejection>;

/// `POST /sessions`
pub(super) async fn open(StateOf(shared): State, request: Request) -> Answer {
    let shared = shared.of_request(&request);
    let requester = Requester::of(request.extensions(), &shared).await?;
    requester.may_mint(&shared).map_err(|refusal| shared.refuse(refusal))?;
    let Caller::Key(parent) = requester.caller else {
        return Err(shared.refuse(Refusal::NotFound));
    };
    let asked = session_request(request, &shared.keys).await;
    let asked = asked.map_err(|refusal| shared.refuse(refusal))?;
    let (cap, cap_field) = match asked.spend_cap_usd {
        Some(Usd(cap)) => (Some(cap), "spend_cap_usd"),
        None => (asked.spend_cap_cents, "spend_cap_cents"),
    };
    let ttl = asked.ttl_seconds.map(seconds);
    let new = NewSession::of_request(asked.scopes, ttl, cap);
    let (keys, rules) = (shared.keys.clone(), requester.rules(&shared));
    let opening = async move {
        let opened = keys.open_session_as(rules, parent, new).await;
        opened.map_err(|error| naming(error, cap_field))
    };
    let opened = shared.run(opening).await?;
    let answer = wire::OpenedSession {
        session_id: opened.session_id,
        token: opened.token.expose().to_owned(),
        expires_at: opened.expires_at,
        scopes: opened.scopes,
        spend_cap_usd: opened.spend_cap.map(Usd),
        spend_cap_cents: opened.spend_cap,
    };
    Ok(json(StatusCode::CREATED, &answer))
}

/// `GET /me`
pub(super) async fn me(StateOf(shared): State, request: Request) -> Answer {
    let shared = shared.of_request(&request);
    let requester = Requester::of(request.extensions(), &shared).await?;
    let Caller::Key(own) = requester.caller else { return Err(shared.refuse(Refusal::NotFound)) };
    show(SessionId::new(own), &requester, &shared).await
}

/// `DELETE /sessions/{id}`
pub(super) async fn end(StateOf(shared): State, id: PathId, request: Request) -> Answer {
    let shared = shared.of_request(&request);
    let requester = Requester::of(request.extensions(), &shared).await?;
    requester.may_change().map_err(|refusal| shared.refuse(refusal))?;
    let reason = reason(request).await.map_err(|refusal| shared.refuse(refusal))?;
    let id: Option<SessionId> = id.ok().and_then(|Path(id)| id.parse().ok());
    let id = id.ok_or_else(|| shared.refuse(Refusal::NotFound))?;
    visible(id, &requester, &shared).await?;
    let change = KeyChange::Revoke { key: id.key(), reason };
    let (keys, rules) = (shared.keys.clone(), requester.rules(&shared));
    shared.run(async move { keys.change_key_as(rules, &change).await }).await?;
    show(id, &requester, &shared).await
}

async fn show(id: SessionId, requester: &Requester, shared: &Shared) -> Answer {
    let lineage = visible(id, requester, shared).await?;
    Ok(json(StatusCode::OK, &session(&lineage, shared.admin_scope())))
}

/// Returns a session that the caller may see.
async fn visible(
    id: SessionId,
    requester: &Requester,
    shared: &Shared,
) -> Result<Lineage, Rejection> {
    let found = shared.keys.session(id).await.map_err(|error| shared.reject(error))?;
    found
        .filter(|lineage| requester.sees(lineage, shared))
        .ok_or_else(|| shared.refuse(Refusal::NotFound))
}

fn session(lineage: &Lineage, admin_scope: Option<&Scope>) -> wire::Session {
    let key = lineage.key();
    let cap = key.spend_cap().map(|cap| cap.amount);
    wire::Session {
        session_id: SessionId::new(key.id),
        state: view::state(lineage),
        scopes: lineage.scopes(admin_scope),
        expires_at: lineage.expires_at(),
        spend_cap_usd: cap.map(Usd),
        spend_cap_cents: cap,
        budgets: view::budgets(lineage),
        remaining_cents: lineage.remaining(),
        delegated_by: lineage.delegated_by().map(str::to_owned),
        revoked_at: key.revoked_at,
        revoked_reason: key.revoked_reason.clone(),
    }
}

async fn session_request(request: Request, keys: &AgentKeys) -> Result<SessionRequest, Refusal> {
    let mut fields = Fields::read(request).await?;
    let (scopes, ttl_seconds) = (fields.scopes(), fields.value::<u32>("ttl_seconds"));
    let spend_cap_cents: Option<Amount> = fields.value("spend_cap_cents");
    let spend_cap_usd: Option<Usd> = fields.value("spend_cap_usd");
    if spend_cap_cents.is_some() && spend_cap_usd.is_some() {
        fields.error("spend_cap_usd", "and spend_cap_cents exclude each other");
    }
    for (name, cap) in
        [("spend_cap_cents", spend_cap_cents), ("spend_cap_usd", spend_cap_usd.map(|Usd(cap)| cap))]
    {
        if cap.is_some_and(Amount::is_negative) {
            fields.error(name, "is below zero");
        }
    }
    match keys.check_session_ttl(ttl_seconds.map(seconds)) {
        Err(Error::Change(ChangeError::Invalid { field, reason })) => fields.error(field, reason),
        Err(error) => return Err(error.into()),
        Ok(()) => {}
    }
    fields.finish()?;
    Ok(SessionRequest { scopes, ttl_seconds, spend_cap_cents, spend_cap_usd })
}

async fn reason(request: Request) -> Result<Option<String>, Refusal> {
    let mut fields = Fields::read(request).await?;
    let reason = fields.text("reason");
    fields.finish()?;
    Ok(reason)
}

fn seconds(seconds: u32) -> Duration {
    Duration::from_secs(seconds.into())
}

/// Names a cap that is beyond the caller's limits as the request did.
fn naming(error: Error, cap: &str) -> Error {
    let Error::Change(ChangeError::Refused(Refusal::BeyondCaller(mut beyond))) = error else {
        return error;
    };
    for field in beyond.iter_mut().filter(|beyond| beyond.field == "budgets") {
        cap.clone_into(&mut field.field);
    }
    ChangeError::Refused(Refusal::BeyondCaller(beyond)).into()
}
