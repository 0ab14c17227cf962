//! What claims must say, and what is read from them.

use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Map, Value};

use super::verifier::{Verified, VerifyError};
use crate::model::clock::{from_micros, later};
use crate::model::{Scope, ScopeSet, Subject};

/// Which claims are accepted.
#[derive(Clone, Debug)]
pub(super) struct ClaimRules {
    pub(super) issuer: String,
    /// The claims `iss` and `exp` have to be there.
    pub(super) is_strict: bool,
    pub(super) audiences: Vec<String>,
    /// Accepted in the claim `client_id` of claims without `aud`.
    pub(super) client_ids: Vec<String>,
    pub(super) any_audience: bool,
    pub(super) required: Vec<(String, Value)>,
    /// Of these, the first that is there is read.
    pub(super) scope_claims: Vec<String>,
    pub(super) expiry_leeway: Duration,
    pub(super) start_leeway: Duration,
}

impl ClaimRules {
    pub(super) fn new(issuer: String, is_strict: bool) -> Self {
        Self {
            issuer,
            is_strict,
            audiences: Vec::new(),
            client_ids: Vec::new(),
            any_audience: false,
            required: Vec::new(),
            scope_claims: vec!["scope".to_owned()],
            expiry_leeway: Duration::ZERO,
            start_leeway: Duration::from_secs(60),
        }
    }

    /// Judges claims that the issuer has said.
    ///
    /// # Errors
    ///
    /// [`VerifyError::Expired`] where everything but the end is as it must be; else
    /// [`VerifyError::Invalid`].
    pub(super) fn judge(
        &self,
        claims: Map<String, Value>,
        now: Timestamp,
    ) -> Result<Verified, VerifyError> {
        match claims.get("iss") {
            Some(Value::String(issuer)) if *issuer == self.issuer => {}
            None if !self.is_strict => {}
            _ => return Err(invalid("it is of another issuer")),
        }
        if !self.is_for_us(&claims) {
            return Err(invalid("it is for another audience"));
        }
        if self.required.iter().any(|(name, value)| claims.get(name) != Some(value)) {
            return Err(invalid("a required claim is missing or another"));
        }
        let start = later(now, self.start_leeway);
        for name in ["nbf", "iat"] {
            if instant(&claims, name)?.is_some_and(|at| at > start) {
                return Err(invalid("it is not yet valid"));
            }
        }
        let expires_at = instant(&claims, "exp")?.map(|at| later(at, self.expiry_leeway));
        match expires_at {
            None if self.is_strict => return Err(invalid("it has no `exp`")),
            Some(at) if at <= now => return Err(VerifyError::Expired),
            _ => {}
        }
        let Some(Value::String(id)) = claims.get("sub") else {
            return Err(invalid("it has no `sub`"));
        };
        let subject = Subject::new(self.issuer.as_str(), id.as_str())
            .map_err(|error| VerifyError::Invalid(error.to_string()))?;
        let scopes = self.scope_claims.iter().find_map(|name| claims.get(name)).map(scopes_of);
        Ok(Verified { subject, scopes, expires_at, claims })
    }

    fn is_for_us(&self, claims: &Map<String, Value>) -> bool {
        let ours = |value: &Value| {
            value.as_str().is_some_and(|one| self.audiences.iter().any(|a| a == one))
        };
        match claims.get("aud") {
            _ if self.any_audience => true,
            Some(Value::Array(several)) => several.iter().any(ours),
            Some(one) => ours(one),
            None => claims
                .get("client_id")
                .and_then(Value::as_str)
                .is_some_and(|id| self.client_ids.iter().any(|ours| ours == id)),
        }
    }
}

/// Reads a NumericDate (RFC 7519 §2), which may have a fraction. It is clamped to the range of time.
fn instant(claims: &Map<String, Value>, name: &str) -> Result<Option<Timestamp>, VerifyError> {
    let Some(value) = claims.get(name) else { return Ok(None) };
    let micros = match (value.as_i64(), value.as_f64()) {
        (Some(seconds), _) => seconds.saturating_mul(1_000_000),
        // A cast of a float saturates.
        (None, Some(seconds)) if seconds.is_finite() => (seconds * 1e6) as i64,
        _ => return Err(VerifyError::Invalid(format!("`{name}` is no number"))),
    };
    Ok(Some(from_micros(micros)))
}

/// Reads scopes: names with spaces between them (RFC 8693 §4.2), or an array of names.
///
/// A name that is no scope is left out, and any other value is no scope at all: what cannot be read
/// narrows.
fn scopes_of(value: &Value) -> ScopeSet {
    let read = |name: &str| name.parse::<Scope>().ok();
    match value {
        Value::String(names) => names.split(' ').filter_map(read).collect(),
        Value::Array(names) => names.iter().filter_map(Value::as_str).filter_map(read).collect(),
        _ => ScopeSet::none(),
    }
}

pub(super) fn invalid(reason: &'static str) -> VerifyError {
    VerifyError::Invalid(reason.to_owned())
}
