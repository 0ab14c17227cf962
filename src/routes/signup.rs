//! `POST /signup`: a first key for a client that has none.

use std::fmt;
use std::future::Future;
use std::net::IpAddr;
use std::sync::{Arc, Once};
use std::time::Duration;

use axum::extract::{Request, State as StateOf};
use axum::response::Response;
use http::StatusCode;
use jiff::Timestamp;
use serde_json::{Map, Value};

use super::client_limits::ClientLimits;
use super::fields::{Fields, budget_of};
use super::keys::created_answer;
use super::principal::Requester;
use super::shared::Shared;
use super::wire::{Limit, SignupRequest};
use crate::engine::BuildError;
use crate::http::Rejection;
use crate::http::client::{Client, client_address};
use crate::ledger::{Caller, CallerRules, Ceiling, KeyDraft, LeftOut, MintRules, Minting};
use crate::model::key::Expiry;
use crate::model::{
    AccountId, Actor, Budget, Metadata, Origin, Refusal, Scope, ScopeSet, Validity,
};
use crate::store::BoxFuture;

type Hook = dyn Fn(NewClient) -> BoxFuture<'static, SignupDecision> + Send + Sync;

/// What `POST /signup` gives to a client without a key.
///
/// Each sign-up is an account of its own, whatever its e-mail address is, unless
/// [`sponsor`](Self::sponsor) or [`on_signup`](Self::on_signup) says otherwise. Its e-mail address
/// is not verified; it is kept as `email` in the metadata of the key.
///
/// ```
/// use agentkey::routes::Signup;
/// use agentkey::{Amount, Budget, ScopeSet};
///
/// let signup = Signup::new(Budget::lifetime(Amount::cents(100)))
///     .scopes(ScopeSet::parse(["read", "answer"])?)
///     .sponsor("signups".parse()?);
/// # let _ = signup; Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
#[must_use = "it takes effect through `SelfServe::signup`"]
pub struct Signup {
    budget: Budget,
    scopes: ScopeSet,
    expires_in: Validity,
    is_email_required: bool,
    sponsor: Option<AccountId>,
    hook: Option<Arc<Hook>>,
    per_client: u32,
    total: u32,
    window: Duration,
    trusted_hops: usize,
}

/// A client that signs up, as the hook of [`Signup::on_signup`] sees it.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct NewClient {
    /// Its e-mail address, which is not verified.
    pub email: Option<String>,
    /// The name of the key.
    pub name: Option<String>,
    /// What the key will be allowed.
    pub scopes: ScopeSet,
    /// What the key will be able to spend.
    pub budget: Budget,
    /// The address of the client, where the server knows it.
    pub address: Option<IpAddr>,
}

/// What the application says to a sign-up. It may refuse it or give less, and never more.
#[derive(Clone, Debug)]
#[must_use = "the hook of `Signup::on_signup` returns it"]
pub struct SignupDecision {
    refusal: Option<String>,
    account: Option<AccountId>,
    scopes: Option<ScopeSet>,
    budget: Option<Budget>,
    expires_in: Option<Validity>,
    delegated_by: Option<String>,
}

impl SignupDecision {
    /// Accepts the sign-up as it is.
    pub const fn accept() -> Self {
        Self {
            refusal: None,
            account: None,
            scopes: None,
            budget: None,
            expires_in: None,
            delegated_by: None,
        }
    }

    /// Refuses it with 403 `signup_refused`. The client reads the reason.
    pub fn refuse(reason: impl Into<String>) -> Self {
        Self { refusal: Some(reason.into()), ..Self::accept() }
    }

    /// Opens this account, which may have other keys: for an address that the application has
    /// verified.
    pub fn account(mut self, account: AccountId) -> Self {
        self.account = Some(account);
        self
    }

    /// Allows only those of the scopes that are among these.
    pub fn scopes(mut self, scopes: ScopeSet) -> Self {
        self.scopes = Some(scopes);
        self
    }

    /// Cuts each limit to that of the same period in this budget, and adds the others.
    pub fn budget(mut self, budget: Budget) -> Self {
        self.budget = Some(budget);
        self
    }

    /// Ends the key after this time, if it would be valid for longer.
    pub fn expires_in(mut self, validity: Validity) -> Self {
        self.expires_in = Some(validity);
        self
    }

    /// Sets the human on whose behalf the key acts.
    pub fn delegated_by(mut self, human: impl Into<String>) -> Self {
        self.delegated_by = Some(human.into());
        self
    }
}

impl Signup {
    /// Returns a sign-up with this budget, which is also the most that a client may ask for.
    ///
    /// By default it gives no scopes, lasts 24 hours, requires an e-mail address, and allows 10
    /// sign-ups an hour for each client address and 1,000 in total.
    pub fn new(budget: Budget) -> Self {
        Self {
            budget,
            scopes: ScopeSet::none(),
            expires_in: Validity::hours(24),
            is_email_required: true,
            sponsor: None,
            hook: None,
            per_client: 10,
            total: 1_000,
            window: Duration::from_secs(3_600),
            trusted_hops: 0,
        }
    }

    /// Sets the scopes that clients may ask for, and get if they ask for none. Default: none.
    pub fn scopes(mut self, scopes: ScopeSet) -> Self {
        self.scopes = scopes;
        self
    }

    /// Sets how long a key is valid, and the longest that a client may ask for. Default: 24 hours.
    pub fn expires_in(mut self, validity: Validity) -> Self {
        self.expires_in = validity;
        self
    }

    /// Sets whether a client has to send an e-mail address. Default: yes.
    pub fn require_email(mut self, is_required: bool) -> Self {
        self.is_email_required = is_required;
        self
    }

    /// Puts all sign-ups into this account, so that its ceiling holds them together:
    /// [`AgentKeys::ensure_account`](crate::AgentKeys::ensure_account) sets it.
    ///
    /// No sign-up sees the keys of another.
    pub fn sponsor(mut self, account: AccountId) -> Self {
        self.sponsor = Some(account);
        self
    }

    /// Sets a hook that is asked about every sign-up that is otherwise in order.
    ///
    /// ```
    /// use agentkey::routes::{Signup, SignupDecision};
    /// # use agentkey::{Amount, Budget};
    ///
    /// # let signup = Signup::new(Budget::lifetime(Amount::cents(100)));
    /// let signup = signup.on_signup(|client| async move {
    ///     match client.email.as_deref() {
    ///         Some(email) if email.ends_with("@spam.example") => SignupDecision::refuse("not here"),
    ///         _ => SignupDecision::accept(),
    ///     }
    /// });
    /// # let _ = signup;
    /// ```
    pub fn on_signup<F>(mut self, hook: impl Fn(NewClient) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = SignupDecision> + Send + 'static,
    {
        self.hook = Some(Arc::new(move |client| Box::pin(hook(client))));
        self
    }

    /// Sets how many sign-ups are accepted in a window of time: for each client address, and in
    /// total. Each process counts for itself. An IPv6 client is counted by its /64 network.
    ///
    /// The server has to be served with axum's `into_make_service_with_connect_info::<SocketAddr>()`.
    /// Without it no address is known, and all clients together have the limit of one.
    pub fn limits(mut self, per_client: u32, total: u32, window: Duration) -> Self {
        (self.per_client, self.total, self.window) = (per_client, total, window);
        self
    }

    /// Takes the address of a client from `X-Forwarded-For`, as the outermost of this many proxies
    /// wrote it. Default: 0, the address of the connection.
    ///
    /// Name only proxies that every request has to pass: what is before their part of the header is
    /// the client's own text. Requests without their part have the limit of one client.
    pub fn trusted_hops(mut self, hops: usize) -> Self {
        self.trusted_hops = hops;
        self
    }

    /// Checks what the host has set.
    pub(super) fn validate(
        &self,
        account_scope: Option<&Scope>,
        admin_scope: Option<&Scope>,
    ) -> Result<(), BuildError> {
        let refused = |option, given: String, accepted| {
            Err(BuildError::OutOfRange { option, given, accepted })
        };
        if self.budget.validate().is_err() || self.budget.limits().next().is_none() {
            let accepted = "at least one limit that is not negative, because anybody may sign up";
            return refused("Signup::new", format!("{:?}", self.budget), accepted);
        }
        let is_too_wide = self.scopes.is_unrestricted()
            || self.scopes.iter().any(|scope| scope.as_str() == "*")
            || admin_scope.is_some_and(|admin| self.scopes.allows(admin));
        if is_too_wide {
            let accepted = "named scopes without the one that includes all others";
            return refused("Signup::scopes", self.scopes.to_string(), accepted);
        }
        if self.sponsor.is_some() && account_scope.is_some_and(|all| self.scopes.allows(all)) {
            let accepted = "without the account scope, which would show each sign-up all others";
            return refused("Signup::scopes", self.scopes.to_string(), accepted);
        }
        if self.window.is_zero() || self.window > Duration::from_secs(30 * 86_400) {
            let accepted = "a window of up to 30 days";
            return refused("Signup::limits", format!("{:?}", self.window), accepted);
        }
        if !(1..=1_000_000).contains(&self.total) {
            return refused(
                "Signup::limits",
                self.total.to_string(),
                "from 1 to 1,000,000 in total",
            );
        }
        Ok(())
    }
}

impl fmt::Debug for Signup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Signup")
            .field("budget", &self.budget)
            .field("scopes", &self.scopes)
            .field("expires_in", &self.expires_in)
            .field("sponsor", &self.sponsor)
            .finish_non_exhaustive()
    }
}

/// The state of the route.
pub(super) struct SignupState {
    shared: Arc<Shared>,
    signup: Signup,
    limits: ClientLimits,
    /// Whether the log says that no address is known.
    warning: Once,
}

impl SignupState {
    pub(super) fn new(shared: Arc<Shared>, signup: Signup) -> Self {
        let limits = ClientLimits::new(signup.per_client, signup.total, signup.window);
        Self { shared, signup, limits, warning: Once::new() }
    }
}

/// `POST /signup`
pub(super) async fn signup(
    StateOf(state): StateOf<Arc<SignupState>>,
    request: Request,
) -> Result<Response, Rejection> {
    let (shared, signup) = (state.shared.of_request(&request), &state.signup);
    let (parts, body) = request.into_parts();
    let address = client_address(&parts.headers, &parts.extensions, signup.trusted_hops);
    let asked = signup_request(Request::from_parts(parts, body), signup).await;
    let asked = asked.map_err(|refusal| shared.refuse(refusal))?;
    let client = address.map_or(Client::Unknown, Client::new);
    if client == Client::Unknown {
        state.warning.call_once(|| {
            tracing::warn!(
                "agentkey does not know the addresses of clients, so these sign-ups have the limit of one: serve the app \
                 with into_make_service_with_connect_info::<SocketAddr>(), and let each of `trusted_hops` proxies append \
                 to X-Forwarded-For"
            );
        });
    }
    let counted = state.limits.count(client);
    counted.map_err(|retry_after| shared.refuse(Refusal::RateLimited { retry_after }))?;
    let (state, of_request) = (state.clone(), shared.clone());
    let work = async move { Ok(state.sign_up(asked, address, &of_request).await) };
    shared.run(work).await?
}

impl SignupState {
    async fn sign_up(
        &self,
        asked: Asked,
        address: Option<IpAddr>,
        shared: &Shared,
    ) -> Result<Response, Rejection> {
        let signup = &self.signup;
        let client = NewClient {
            email: asked.email.clone(),
            name: asked.name.clone(),
            scopes: asked.scopes.clone(),
            budget: asked.budget,
            address,
        };
        let decision = match &signup.hook {
            Some(hook) => hook(client).await,
            None => SignupDecision::accept(),
        };
        if let Some(reason) = decision.refusal {
            return Err(shared.refuse(Refusal::SignupRefused(reason)));
        }
        let own = || AccountId::new(uuid::Uuid::now_v7().to_string());
        let account = decision.account.or_else(|| signup.sponsor.clone()).map_or_else(own, Ok);
        let account = account.map_err(|_| shared.refuse(Refusal::Misconfigured))?;
        let scopes = match &decision.scopes {
            Some(fewer) => asked.scopes.intersect(fewer),
            None => asked.scopes,
        };
        let budget = decision.budget.map_or(asked.budget, |less| tighter(asked.budget, less));
        let shorter = decision.expires_in.filter(|less| is_longer(asked.expires_in, *less));
        let draft = KeyDraft {
            account: account.clone(),
            parent: None,
            name: asked.name.unwrap_or_default(),
            scopes,
            budget,
            rate_limit: None,
            allowed_cidrs: None,
            delegated_by: decision.delegated_by,
            metadata: asked.metadata,
            expiry: Expiry::In(shorter.unwrap_or(asked.expires_in)),
            // The end that the hook gives is cut to the service's.
            left_out: LeftOut { expiry: shorter.is_some(), ..LeftOut::default() },
        };
        let rules = CallerRules {
            ceiling: Ceiling::default(),
            caller: Caller::Account(account.clone()),
            token_start: None,
            account_scope: None,
            minting: Minting::Allowed,
            mint: MintRules {
                max_lifetime: Some(signup.expires_in),
                default_budget: None,
                ..shared.settings.mint
            },
        };
        let origin = Origin { actor: Actor::Signup, ..shared.keys.origin().clone() };
        let created = shared.keys.with_origin(origin).create_as(rules, draft).await;
        let created = created.map_err(|error| match shared.reject(error) {
            // A client that has no key has no caller to go beyond: the field is wrong.
            beyond if matches!(beyond.refusal(), Refusal::BeyondCaller(_)) => {
                let Refusal::BeyondCaller(errors) = beyond.refusal().clone() else { return beyond };
                shared.refuse(Refusal::InvalidRequest(errors))
            }
            other => other,
        })?;
        Ok(created_answer(StatusCode::CREATED, created, &Requester::account(account), shared).await)
    }
}

/// A request that is within what the host gives.
struct Asked {
    email: Option<String>,
    name: Option<String>,
    scopes: ScopeSet,
    budget: Budget,
    expires_in: Validity,
    metadata: Metadata,
}

async fn signup_request(request: Request, signup: &Signup) -> Result<Asked, Refusal> {
    let mut fields = Fields::read(request).await?;
    let asked = SignupRequest {
        email: fields.text("email"),
        name: fields.text("name"),
        scopes: fields.scopes(),
        budgets: match fields.budgets() {
            Some(None) => {
                fields.error("budgets", "is null, and this service gives a budget to each client");
                None
            }
            limits => limits.flatten(),
        },
        expires_in: fields.value("expires_in"),
    };
    match &asked.email {
        Some(email) if !is_email(email) => fields.error("email", "is no e-mail address"),
        None if signup.is_email_required && !fields.has_error("email") => {
            fields.error("email", "is missing");
        }
        _ => {}
    }
    let scopes = asked.scopes.unwrap_or_else(|| signup.scopes.clone());
    if !scopes.is_within(&signup.scopes) {
        let allowed: Vec<_> = signup.scopes.iter().map(Scope::as_str).collect();
        let detail = match allowed.is_empty() {
            true => "has a scope that is not given to new clients; none is".to_owned(),
            false => format!(
                "has a scope that is not given to new clients; these are: {}",
                allowed.join(" ")
            ),
        };
        fields.error("scopes", detail);
    }
    let limits = asked.budgets.unwrap_or_default();
    if let Err(detail) = within(&limits, signup.budget) {
        fields.error("budgets", detail);
    }
    let budget = tighter(budget_of(&limits).unwrap_or_default(), signup.budget);
    let expires_in = asked.expires_in.unwrap_or(signup.expires_in);
    if is_longer(expires_in, signup.expires_in) {
        fields.error("expires_in", format!("is more than {}", signup.expires_in));
    }
    let mut metadata = Map::new();
    if let Some(email) = &asked.email {
        metadata.insert("email".to_owned(), Value::String(email.clone()));
    }
    let metadata = Metadata::new(metadata).unwrap_or_default();
    fields.finish()?;
    Ok(Asked { email: asked.email, name: asked.name, scopes, budget, expires_in, metadata })
}

/// Checks that no limit is above the cap in the same or a longer period, and that limits for one
/// unit of time have the cap's period.
fn within(limits: &[Limit], cap: Budget) -> Result<(), String> {
    for limit in limits {
        for max in cap.limits() {
            if limit.period.is_as_long_as(max.period) && limit.period != max.period {
                return Err(format!("has the period {}; it is {}", limit.period, max.period));
            }
            if limit.period.is_shorter_or_equal(max.period) && limit.limit_cents > max.amount {
                let cents = serde_json::to_string(&max.amount).unwrap_or_default();
                return Err(format!("is above {cents} cents for each {}", max.period));
            }
        }
    }
    Ok(())
}

/// Returns the limits of both, and the lower one where both have one for a period.
fn tighter(budget: Budget, cap: Budget) -> Budget {
    cap.limits().fold(budget, |budget, max| {
        let own = budget.limits().find(|limit| limit.period.is_as_long_as(max.period));
        match own {
            Some(own) if own.amount <= max.amount => budget,
            Some(own) => budget.and(max.amount, own.period),
            None => budget.and(max.amount, max.period),
        }
    })
}

/// Returns whether one is longer than the other, counted from a January.
fn is_longer(one: Validity, other: Validity) -> bool {
    let end = |validity: Validity| validity.after(Timestamp::UNIX_EPOCH).unwrap_or(Timestamp::MAX);
    end(one) > end(other)
}

/// Returns whether a text looks like an e-mail address. Only a message to it would prove that.
fn is_email(text: &str) -> bool {
    let is_plain = |part: &str| {
        !part.is_empty()
            && !part.contains(|c: char| c.is_whitespace() || c.is_control() || c == '@')
    };
    text.len() <= 254
        && text.rsplit_once('@').is_some_and(|(local, domain)| is_plain(local) && is_plain(domain))
}
