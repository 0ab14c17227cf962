//! A login of the application, as the caller of a route.

use crate::ledger::Caller;
use crate::model::{AccountId, Actor, KeyId};

/// The caller of a request, as the application's own login knows it.
///
/// A middleware of the application puts it into the request's extensions. Then the routes take it
/// as the caller and do not look for a key.
///
/// Such a login is the application's: where [`Minting`](super::Minting) says that keys make no keys,
/// it may still do so. A key it stands for is bound as that key is.
///
/// ```
/// use agentkey::routes::Principal;
/// use axum::extract::Request;
/// use axum::middleware::Next;
/// use axum::response::Response;
///
/// async fn login(mut request: Request, next: Next) -> Response {
///     if let Some(user) = user_of(&request) {
///         request.extensions_mut().insert(Principal::account(user));
///     }
///     next.run(request).await
/// }
/// # fn user_of(_: &Request) -> Option<agentkey::AccountId> { None }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Principal {
    caller: Caller,
    name: Option<String>,
}

impl Principal {
    /// Returns a login that manages all keys of an account.
    pub const fn account(account: AccountId) -> Self {
        Self { caller: Caller::Account(account), name: None }
    }

    /// Returns a login that stands for a key: it sees and may do what that key does.
    pub const fn key(key: KeyId) -> Self {
        Self { caller: Caller::Key(key), name: None }
    }

    /// Sets the name of the login, which the [events](crate::AgentKeys::events) of its changes have. Default:
    /// none.
    pub fn named(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// Returns the login as the one who acts.
    pub(super) fn actor(&self) -> Actor {
        self.name.as_deref().map_or(Actor::Principal { name: None }, Actor::principal)
    }

    pub(super) const fn caller(&self) -> &Caller {
        &self.caller
    }
}
