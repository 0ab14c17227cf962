//! `POST /introspect`: what a token may do, for a server that got it (RFC 7662).

use axum::body::Body;
use axum::extract::rejection::FormRejection;
use axum::extract::{Form, FromRequest, Request, State as StateOf};
use axum::response::Response;
use http::StatusCode;
use http_body_util::{BodyExt, LengthLimitError, Limited};

use super::fields::{MAX_BODY, invalid};
use super::principal::State;
use super::shared::{Shared, json};
use super::view;
use super::wire::Introspection;
use crate::http::Rejection;
use crate::model::{Refusal, Token};
use crate::store::Found;

/// A server that the application has authenticated, and that may ask what a token may do.
///
/// A middleware of the application puts it into the request. Without it, `POST /introspect` is 401: a
/// key does not introspect keys.
///
/// ```
/// use agentkey::routes::ResourceServer;
/// use axum::extract::Request;
/// use axum::middleware::Next;
/// use axum::response::Response;
///
/// async fn servers(mut request: Request, next: Next) -> Response {
///     if is_own_server(&request) {
///         request.extensions_mut().insert(ResourceServer);
///     }
///     next.run(request).await
/// }
/// # fn is_own_server(_: &Request) -> bool { false }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ResourceServer;

/// `POST /introspect`
pub(super) async fn introspect(
    StateOf(shared): State,
    request: Request,
) -> Result<Response, Rejection> {
    let shared = shared.of_request(&request);
    if request.extensions().get::<ResourceServer>().is_none() {
        return Err(shared.refuse(Refusal::MissingKey));
    }
    let token = token_of(request).await.map_err(|refusal| shared.refuse(refusal))?;
    let found = match token {
        Some(token) => shared.keys.look_up(&token).await,
        None => Ok(None),
    };
    let found = match found {
        Err(refusal @ Refusal::Unavailable { .. }) => return Err(shared.refuse(refusal)),
        // The token of a session that is forged or has expired.
        Err(_) => None,
        // From where the token came is not known here.
        Ok(found) => found.filter(|found| {
            found.lineage.check_active().is_ok() && !found.lineage.has_allowed_cidrs()
        }),
    };
    let answer = found.map(|found| active(&found, &shared)).unwrap_or_default();
    Ok(json(StatusCode::OK, &answer))
}

fn active(found: &Found, shared: &Shared) -> Introspection {
    let lineage = &found.lineage;
    let ends_at = lineage.expires_at().into_iter().chain(found.retires_at).min();
    let account = lineage.account_id().to_string();
    Introspection {
        active: true,
        scope: Some(lineage.scopes(shared.admin_scope()).to_string()),
        client_id: Some(lineage.id().to_string()),
        sub: Some(lineage.delegated_by().map_or_else(|| account.clone(), str::to_owned)),
        token_type: Some("Bearer".to_owned()),
        exp: ends_at.map(|at| at.as_second()),
        iat: Some(lineage.key().created_at.as_second()),
        account: Some(account),
        budgets: Some(view::budgets(lineage)),
        remaining_cents: lineage.remaining(),
    }
}

/// Reads the parameter `token` of a form; `None` where it has the form of no token.
async fn token_of(request: Request) -> Result<Option<Token>, Refusal> {
    let (head, body) = request.into_parts();
    let body = Limited::new(body, MAX_BODY).collect().await.map_err(|error| match error
        .downcast_ref::<LengthLimitError>(
    ) {
        Some(_) => Refusal::BodyTooLarge { max: MAX_BODY },
        None => invalid("", "could not be read to its end"),
    })?;
    let request = Request::from_parts(head, Body::from(body.to_bytes()));
    let Form(parameters) = Form::<Vec<(String, String)>>::from_request(request, &())
        .await
        .map_err(|rejection| match rejection {
            FormRejection::InvalidFormContentType(_) => Refusal::UnsupportedForm,
            _ => invalid("", "is no form"),
        })?;
    let mut tokens = parameters.into_iter().filter(|(name, _)| name == "token");
    let Some((_, token)) = tokens.next() else { return Err(invalid("token", "is missing")) };
    match tokens.next() {
        Some(_) => Err(invalid("token", "is there twice")),
        None => Ok(read(&token)),
    }
}

fn read(text: &str) -> Option<Token> {
    #[cfg(feature = "sessions")]
    if let Ok(token) = Token::parse_session(text) {
        return Some(token);
    }
    Token::parse(text).or_else(|_| Token::parse_foreign(text)).ok()
}
