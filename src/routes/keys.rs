//! The routes of keys: mint, list, show, narrow, rotate, pause and revoke.

use std::time::Duration;

use axum::extract::{Path, Request, State as StateOf, rejection::PathRejection};
use axum::response::Response;
use http::{Extensions, StatusCode};

use super::fields::{Fields, budget_of, expiry_of};
use super::principal::{Requester, State};
use super::query::{List, Params, encode};
use super::shared::{Shared, json};
use super::view;
use super::wire::{self, CreatedKey, KeyRequest, RevokeRequest, RotateRequest};
use crate::engine::Created;
use crate::http::Rejection;
use crate::ledger::{Caller, KeyChange, KeyDraft, LeftOut};
use crate::model::key::Expiry;
use crate::model::{
    Account, Budget, FieldError, Grace, Key, KeyId, KeyPatch, Lineage, Refusal, ScopeSet,
};
use crate::store::KeyQuery;

type Answer = Result<Response, Rejection>;
type PathId = Result<Path<String>, PathRejection>;

/// The longest grace of a rotation: 30 days.
const MAX_GRACE_SECONDS: u32 = 30 * 24 * 3_600;

/// How many keys one request for a page reads at most, whatever its filters let through.
const MAX_SCAN: usize = 1_000;

/// `GET /keys/me`
pub(super) async fn me(StateOf(shared): State, request: Request) -> Answer {
    let shared = shared.of_request(&request);
    let requester = Requester::of(request.extensions(), &shared).await?;
    let Caller::Key(own) = requester.caller else { return Err(shared.refuse(Refusal::NotFound)) };
    show_to(&requester, own, &shared).await
}

/// `POST /keys`
pub(super) async fn mint(StateOf(shared): State, request: Request) -> Answer {
    let shared = shared.of_request(&request);
    let requester = Requester::of(request.extensions(), &shared).await?;
    requester.may_mint(&shared).map_err(|refusal| shared.refuse(refusal))?;
    let asked = key_request(request, &requester).await;
    let asked = asked.map_err(|refusal| shared.refuse(refusal))?;
    let parent = match requester.caller {
        Caller::Key(own) => Some(own),
        Caller::Account(_) => None,
    };
    let budget = match &asked.budgets {
        Some(Some(limits)) => budget_of(limits).unwrap_or_default(),
        _ => Budget::unlimited(),
    };
    let expiry = expiry_of(asked.expires_at, asked.expires_in);
    let left_out = LeftOut {
        scopes: asked.scopes.is_none(),
        budget: asked.budgets.is_none(),
        expiry: expiry.is_none(),
    };
    let draft = KeyDraft {
        account: requester.account.clone(),
        parent,
        name: asked.name.unwrap_or_default(),
        scopes: asked.scopes.unwrap_or_else(ScopeSet::none),
        budget,
        rate_limit: asked.rate_limit.flatten(),
        allowed_cidrs: asked.allowed_cidrs.flatten(),
        delegated_by: None,
        metadata: asked.metadata.unwrap_or_default(),
        expiry: expiry.unwrap_or(Expiry::Never),
        left_out,
    };
    let (keys, rules) = (shared.keys.clone(), requester.rules(&shared));
    let created = shared.run(async move { keys.create_as(rules, draft).await }).await?;
    Ok(created_answer(StatusCode::CREATED, created, &requester, &shared).await)
}

/// `GET /keys`
pub(super) async fn list(StateOf(shared): State, request: Request) -> Answer {
    let shared = shared.of_request(&request);
    let requester = Requester::of(request.extensions(), &shared).await?;
    let filter = Filter::read(&request).map_err(|refusal| shared.refuse(refusal))?;
    let mut query = match requester.caller {
        Caller::Key(own) if !requester.manages_account(&shared) => KeyQuery::subtree_of(own),
        _ => KeyQuery::for_account(requester.account.clone()),
    };
    query.after = filter.after;
    // A filter may pass few keys, so more are read at once.
    let is_filtered = filter.name.is_some() || filter.state.is_some();
    query.limit = if is_filtered { filter.limit.max(100) } else { filter.limit };
    let (mut keys, mut read) = (Vec::new(), 0);
    let next = loop {
        let page = shared.keys.keys(&query).await.map_err(|error| shared.reject(error))?;
        read += page.items.len();
        let named = page.items.iter().filter(|key| filter.takes_name(key));
        let ids: Vec<_> = named.map(|key| key.id).collect();
        // A row that is out of service has no lineage, and is not shown.
        let found = shared.keys.find_by_ids(&ids).await.map_err(|error| shared.reject(error))?;
        let mut passing: Vec<_> = found
            .into_iter()
            .flatten()
            .filter(|it| filter.takes_state(it) && requester.sees(it, &shared))
            .collect();
        let room = filter.limit as usize - keys.len();
        let has_more = passing.len() > room;
        passing.truncate(room);
        keys.extend(passing.iter().map(|it| view::key(it, &requester, shared.admin_scope())));
        query.after = page.next;
        if has_more {
            break passing.last().map(Lineage::id);
        }
        if page.next.is_none() || keys.len() == filter.limit as usize || read >= MAX_SCAN {
            break page.next;
        }
    };
    let next_cursor = next.map(|after| encode(List::Keys, &after.to_string()));
    Ok(json(StatusCode::OK, &wire::KeyPage { keys, next_cursor }))
}

/// `GET /keys/{id}`
pub(super) async fn show(StateOf(shared): State, id: PathId, request: Request) -> Answer {
    let shared = shared.of_request(&request);
    let requester = Requester::of(request.extensions(), &shared).await?;
    let key = key_id(id).map_err(|refusal| shared.refuse(refusal))?;
    show_to(&requester, key, &shared).await
}

/// `PATCH /keys/{id}`
pub(super) async fn patch(StateOf(shared): State, id: PathId, request: Request) -> Answer {
    let shared = shared.of_request(&request);
    let requester = changing(request.extensions(), &shared).await?;
    let asked = key_request(request, &requester).await;
    let asked = asked.map_err(|refusal| shared.refuse(refusal))?;
    let key = key_id(id).map_err(|refusal| shared.refuse(refusal))?;
    let budget = asked.budgets.map(|limits| match limits {
        Some(limits) => budget_of(&limits).unwrap_or_default(),
        None => Budget::unlimited(),
    });
    let patch = KeyPatch {
        name: asked.name,
        scopes: asked.scopes,
        budget,
        rate_limit: asked.rate_limit,
        allowed_cidrs: asked.allowed_cidrs,
        expiry: expiry_of(asked.expires_at, asked.expires_in),
        metadata: asked.metadata,
        is_disabled: None,
    };
    change(key, KeyChange::Update { key, patch }, &requester, &shared).await
}

/// `POST /keys/{id}/disable`
pub(super) async fn disable(StateOf(shared): State, id: PathId, request: Request) -> Answer {
    let shared = shared.of_request(&request);
    pause(true, &shared, id, request).await
}

/// `POST /keys/{id}/enable`
pub(super) async fn enable(StateOf(shared): State, id: PathId, request: Request) -> Answer {
    let shared = shared.of_request(&request);
    pause(false, &shared, id, request).await
}

async fn pause(is_disabled: bool, shared: &Shared, id: PathId, request: Request) -> Answer {
    let requester = changing(request.extensions(), shared).await?;
    let nothing = Fields::read(request).await.and_then(Fields::finish);
    nothing.map_err(|refusal| shared.refuse(refusal))?;
    let key = key_id(id).map_err(|refusal| shared.refuse(refusal))?;
    let patch = KeyPatch::new().disabled(is_disabled);
    change(key, KeyChange::Update { key, patch }, &requester, shared).await
}

/// `POST /keys/{id}/rotate`
pub(super) async fn rotate(StateOf(shared): State, id: PathId, request: Request) -> Answer {
    let shared = shared.of_request(&request);
    let requester = Requester::of(request.extensions(), &shared).await?;
    requester.may_mint(&shared).map_err(|refusal| shared.refuse(refusal))?;
    let asked = rotate_request(request).await.map_err(|refusal| shared.refuse(refusal))?;
    let key = key_id(id).map_err(|refusal| shared.refuse(refusal))?;
    let old = visible(key, &requester, &shared).await?;
    let grace = Grace::lasting(Duration::from_secs(asked.grace_seconds.unwrap_or(0).into()));
    let (keys, rules) = (shared.keys.clone(), requester.rules(&shared));
    let rotating = async move { keys.rotate_as(rules, old.key(), grace).await };
    let created = shared.run(rotating).await?;
    Ok(created_answer(StatusCode::OK, created, &requester, &shared).await)
}

/// `POST /keys/{id}/end-grace`
pub(super) async fn end_grace(StateOf(shared): State, id: PathId, request: Request) -> Answer {
    let shared = shared.of_request(&request);
    let requester = changing(request.extensions(), &shared).await?;
    let nothing = Fields::read(request).await.and_then(Fields::finish);
    nothing.map_err(|refusal| shared.refuse(refusal))?;
    let key = key_id(id).map_err(|refusal| shared.refuse(refusal))?;
    change(key, KeyChange::EndGrace { key }, &requester, &shared).await
}

/// `DELETE /keys/{id}`
pub(super) async fn revoke(StateOf(shared): State, id: PathId, request: Request) -> Answer {
    let shared = shared.of_request(&request);
    let requester = changing(request.extensions(), &shared).await?;
    let asked = revoke_request(request).await.map_err(|refusal| shared.refuse(refusal))?;
    let key = key_id(id).map_err(|refusal| shared.refuse(refusal))?;
    change(key, KeyChange::Revoke { key, reason: asked.reason }, &requester, &shared).await
}

/// Returns a caller whose credential may change something.
async fn changing(extensions: &Extensions, shared: &Shared) -> Result<Requester, Rejection> {
    let requester = Requester::of(extensions, shared).await?;
    requester.may_change().map_err(|refusal| shared.refuse(refusal))?;
    Ok(requester)
}

/// Makes a change, and answers with the key after it.
///
/// A store locks the account of the key before it decides, which another's request must not.
async fn change(key: KeyId, change: KeyChange, requester: &Requester, shared: &Shared) -> Answer {
    let found = shared.keys.find_by_id(key).await.map_err(|error| shared.reject(error))?;
    // A row that is out of service has no lineage, and may still be revoked.
    if found.is_some_and(|lineage| !requester.sees(&lineage, shared)) {
        return Err(shared.refuse(Refusal::NotFound));
    }
    let (keys, rules) = (shared.keys.clone(), requester.rules(shared));
    let changed = shared.run(async move { keys.change_key_as(rules, &change).await }).await?;
    show_to(requester, changed.id, shared).await
}

async fn show_to(requester: &Requester, key: KeyId, shared: &Shared) -> Answer {
    let lineage = visible(key, requester, shared).await?;
    Ok(json(StatusCode::OK, &view::key(&lineage, requester, shared.admin_scope())))
}

/// Returns a key that the caller may see.
async fn visible(key: KeyId, requester: &Requester, shared: &Shared) -> Result<Lineage, Rejection> {
    let found = shared.keys.find_by_id(key).await.map_err(|error| shared.reject(error))?;
    found
        .filter(|lineage| requester.sees(lineage, shared))
        .ok_or_else(|| shared.refuse(Refusal::NotFound))
}

/// Answers with a token. The key is read once more; if that fails, it is shown as it was made,
/// because the token is shown once.
pub(super) async fn created_answer(
    status: StatusCode,
    created: Created,
    requester: &Requester,
    shared: &Shared,
) -> Response {
    let Created { key, token } = created;
    let read = shared.keys.find_by_id(key.id).await.ok().flatten();
    let lineage = read.unwrap_or_else(|| as_made(key, requester));
    let key = view::key(&lineage, requester, shared.admin_scope());
    json(status, &CreatedKey { token: token.expose().to_owned(), key })
}

fn as_made(key: Key, requester: &Requester) -> Lineage {
    let at = requester.at().unwrap_or(key.created_at).max(key.created_at);
    match &requester.lineage {
        Some(lineage) => {
            let own = lineage.keys().filter(|member| member.id != key.id).cloned().collect();
            Lineage::new(key, own, lineage.account().clone(), at)
        }
        None => {
            let account = Account::new(key.account.clone(), at);
            Lineage::new(key, Vec::new(), account, at)
        }
    }
}

/// Reads the id in a path. What is no id is no key.
fn key_id(id: PathId) -> Result<KeyId, Refusal> {
    let Ok(Path(id)) = id else { return Err(Refusal::NotFound) };
    let key: KeyId = id.parse().map_err(|_| Refusal::NotFound)?;
    // One spelling for each key: no `+7` and no `007`.
    if key.to_string() == id { Ok(key) } else { Err(Refusal::NotFound) }
}

async fn key_request(request: Request, requester: &Requester) -> Result<KeyRequest, Refusal> {
    let mut fields = Fields::read(request).await?;
    let (name, scopes, budgets) = (fields.text("name"), fields.scopes(), fields.budgets());
    let (expires_at, expires_in) = fields.expiry(requester.at());
    let (rate_limit, allowed_cidrs) = (fields.value("rate_limit"), fields.value("allowed_cidrs"));
    let metadata = fields.value("metadata");
    fields.finish()?;
    Ok(KeyRequest {
        name,
        scopes,
        budgets,
        rate_limit,
        allowed_cidrs,
        expires_at,
        expires_in,
        metadata,
    })
}

async fn rotate_request(request: Request) -> Result<RotateRequest, Refusal> {
    let mut fields = Fields::read(request).await?;
    let grace_seconds: Option<u32> = fields.value("grace_seconds");
    if grace_seconds.is_some_and(|seconds| seconds > MAX_GRACE_SECONDS) {
        fields.error("grace_seconds", format!("is a number from 0 to {MAX_GRACE_SECONDS}"));
    }
    fields.finish()?;
    Ok(RotateRequest { grace_seconds })
}

async fn revoke_request(request: Request) -> Result<RevokeRequest, Refusal> {
    let mut fields = Fields::read(request).await?;
    let reason = fields.text("reason");
    fields.finish()?;
    Ok(RevokeRequest { reason })
}

/// Which keys a list shows.
struct Filter {
    name: Option<String>,
    state: Option<wire::State>,
    limit: u32,
    after: Option<KeyId>,
}

impl Filter {
    fn read(request: &Request) -> Result<Self, Refusal> {
        let mut params = Params::read(request.uri())?;
        let name = params.text("name");
        let state = params.value("state", |text| match text {
            "active" => Ok(wire::State::Active),
            "disabled" => Ok(wire::State::Disabled),
            "expired" => Ok(wire::State::Expired),
            "revoked" => Ok(wire::State::Revoked),
            _ => Err("is active, disabled, expired or revoked".to_owned()),
        });
        let limit = params.limit();
        let after = match params.cursor(List::Keys) {
            Some(after) => Some(after.parse().map_err(|_| {
                Refusal::InvalidRequest(vec![FieldError::new("cursor", "is of no page")])
            })?),
            None => None,
        };
        params.finish()?;
        Ok(Self { name, state, limit, after })
    }

    fn takes_name(&self, key: &Key) -> bool {
        self.name.as_ref().is_none_or(|name| key.name.contains(name))
    }

    fn takes_state(&self, lineage: &Lineage) -> bool {
        self.state.is_none_or(|state| state == view::state(lineage))
    }
}
