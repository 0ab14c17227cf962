//! Refusals as responses: the only place where an error becomes HTTP.
//!
//! Problem documents are those of RFC 9457, `WWW-Authenticate` is that of RFC 6750 §3, `Retry-After` that of RFC 9110
//! §10.2.3.

use std::io::Write;

use bytes::Bytes;
use http::header::{
    CACHE_CONTROL, CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE,
};
use http::{HeaderMap, Response, StatusCode};
use jiff::Timestamp;
use serde::ser::{Serialize, SerializeMap, Serializer};
use serde_json::{Value, json};

use crate::http::options::HttpOptions;
use crate::model::{Amount, MissingScope, Refusal, Shortfall};

/// The header with what a key has left.
pub(crate) const REMAINING: HeaderName = HeaderName::from_static("agentkey-remaining-cents");

/// The header by which the SDKs of OpenAI and Anthropic decide about a retry, before the status: `_should_retry` in
/// `_base_client.py` of the Python packages openai 3.57 and anthropic 2.14.
const SHOULD_RETRY: HeaderName = HeaderName::from_static("x-should-retry");

/// Returns the response to a refused request, as the options say.
pub(crate) fn respond(refusal: &Refusal, options: &HttpOptions) -> Response<Bytes> {
    let status = status(refusal, options);
    // Texts and numbers: it cannot fail.
    let body = serde_json::to_vec(&document(refusal, status)).unwrap_or_default();
    let mut response = Response::new(Bytes::from(body));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    add_headers(headers, refusal, options);
    if is_final(refusal, status) {
        headers.insert(SHOULD_RETRY, HeaderValue::from_static("false"));
    }
    response.extensions_mut().insert(refusal.clone());
    let mut response = options.refused(refusal, response);
    // The application may have made another response.
    response.extensions_mut().get_or_insert_with(|| refusal.clone());
    response
}

/// Sets the header with what is left, if there is a limit.
///
/// A value that is already there is replaced or removed. A proxy's upstream may use agentkey too,
/// and would show what the application's own key has left.
pub(crate) fn put_remaining(headers: &mut HeaderMap, remaining: Option<Amount>) {
    match remaining.and_then(cents_in_header) {
        Some(value) => drop(headers.insert(REMAINING, value)),
        None => drop(headers.remove(REMAINING)),
    }
}

fn status(refusal: &Refusal, options: &HttpOptions) -> StatusCode {
    match refusal {
        Refusal::MissingKey
        | Refusal::InvalidKey
        | Refusal::MissingScheme
        | Refusal::RevokedKey
        | Refusal::ExpiredKey
        | Refusal::DisabledKey => StatusCode::UNAUTHORIZED,
        Refusal::AmbiguousCredentials { .. }
        | Refusal::InvalidIdempotencyKey
        | Refusal::InvalidLabel(_)
        | Refusal::InvalidField { .. }
        | Refusal::InvalidRequest(_)
        | Refusal::NegativeAmount
        | Refusal::ZeroAdjustment => StatusCode::BAD_REQUEST,
        Refusal::AddressNotAllowed
        | Refusal::InsufficientScope(_)
        | Refusal::BeyondCaller(_)
        | Refusal::MintingDisabled
        | Refusal::SessionKey
        | Refusal::RetiringToken
        | Refusal::OwnKey
        | Refusal::OutsideSubtree
        | Refusal::TooDeep { .. }
        | Refusal::TooManyChildren { .. }
        | Refusal::SignupRefused(_) => StatusCode::FORBIDDEN,
        Refusal::BudgetExceeded(_) => options.budget_status,
        Refusal::Conflict
        | Refusal::PostingConflict
        | Refusal::AlreadyCharged(_)
        | Refusal::InFlight
        | Refusal::HoldExpired
        | Refusal::NotInForce
        | Refusal::RefundTooLarge { .. } => StatusCode::CONFLICT,
        Refusal::UnknownAccount
        | Refusal::UnknownEntry
        | Refusal::UnknownKey
        | Refusal::NotFound => StatusCode::NOT_FOUND,
        Refusal::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
        Refusal::BodyTooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
        Refusal::UnsupportedMediaType | Refusal::UnsupportedForm => {
            StatusCode::UNSUPPORTED_MEDIA_TYPE
        }
        Refusal::RateLimited { .. } => StatusCode::TOO_MANY_REQUESTS,
        Refusal::Unavailable { .. } => StatusCode::SERVICE_UNAVAILABLE,
        Refusal::Misconfigured => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

/// A problem document: its members in the order in which they are written, whatever the features of serde_json are.
struct Document(Vec<(&'static str, Value)>);

impl Document {
    fn add(&mut self, name: &'static str, value: impl Into<Value>) {
        self.0.push((name, value.into()));
    }
}

impl Serialize for Document {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (name, value) in &self.0 {
            map.serialize_entry(name, value)?;
        }
        map.end()
    }
}

fn document(refusal: &Refusal, status: StatusCode) -> Document {
    let mut members = Document(Vec::new());
    members.add("title", status.canonical_reason().unwrap_or("Refused"));
    members.add("status", status.as_u16());
    members.add("error", refusal.code());
    members.add("detail", refusal.to_string());
    match refusal {
        Refusal::InsufficientScope(missing) => add_scopes(&mut members, missing),
        Refusal::BudgetExceeded(shortfall) => add_figures(&mut members, shortfall),
        Refusal::AlreadyCharged(entry) => members.add("entry", entry.to_string()),
        Refusal::InvalidField { field, .. } => members.add("field", *field),
        Refusal::InvalidRequest(errors) | Refusal::BeyondCaller(errors) => {
            members.add("errors", json!(errors));
        }
        Refusal::RefundTooLarge { left } => members.add("left_cents", cents(*left)),
        _ => {}
    }
    members
}

fn add_scopes(members: &mut Document, missing: &MissingScope) {
    let required: Vec<_> = missing.required.iter().map(|scope| scope.as_str()).collect();
    members.add("required_scope", required.join(" "));
    members.add("key_scopes", json!(missing.held));
}

fn add_figures(members: &mut Document, shortfall: &Shortfall) {
    members.add("limit_cents", shortfall.limit.map_or(Value::Null, cents));
    members.add("spent_cents", cents(shortfall.spent));
    members.add("held_cents", cents(shortfall.held));
    members.add("remaining_cents", cents(shortfall.remaining));
    members.add("required_cents", cents(shortfall.required));
    members.add("period", shortfall.period.as_str());
    members.add("resets_at", json!(shortfall.resets_at));
    members.add("blocked_by", shortfall.blocked_by.as_str());
}

fn add_headers(headers: &mut HeaderMap, refusal: &Refusal, options: &HttpOptions) {
    if let Some(challenge) = challenge(refusal, options) {
        headers.insert(WWW_AUTHENTICATE, challenge);
    }
    let seconds = match refusal {
        Refusal::Unavailable { retry_after } | Refusal::RateLimited { retry_after } => {
            Some(whole_seconds(retry_after.as_micros()))
        }
        Refusal::InFlight => Some(1),
        Refusal::BudgetExceeded(shortfall) => {
            shortfall.resets_at.map(|at| seconds_until(shortfall.at, at))
        }
        _ => None,
    };
    if let Some(seconds) = seconds {
        headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
    }
}

/// Returns whether the same request is refused again, although clients retry responses of this status.
fn is_final(refusal: &Refusal, status: StatusCode) -> bool {
    match refusal {
        Refusal::InFlight => false,
        Refusal::BudgetExceeded(shortfall) => {
            matches!(status, StatusCode::CONFLICT | StatusCode::TOO_MANY_REQUESTS)
                && shortfall.resets_at.is_none()
        }
        _ => status == StatusCode::CONFLICT,
    }
}

/// Returns the challenge of RFC 6750 §3, which has no error code if the request has no credential.
fn challenge(refusal: &Refusal, options: &HttpOptions) -> Option<HeaderValue> {
    let mut challenge = String::from("Bearer");
    let mut put = |name: &str, value: &str| {
        challenge.push_str(if challenge.len() > "Bearer".len() { ", " } else { " " });
        challenge.push_str(&format!("{name}=\"{value}\""));
    };
    if let Some(realm) = &options.realm {
        put("realm", realm);
    }
    let mut scopes = options.challenge_scopes.as_deref().map(str::to_owned);
    match refusal {
        Refusal::MissingKey => {}
        Refusal::InvalidKey
        | Refusal::MissingScheme
        | Refusal::RevokedKey
        | Refusal::ExpiredKey
        | Refusal::DisabledKey => {
            put("error", "invalid_token");
            put("error_description", &refusal.to_string());
        }
        Refusal::InsufficientScope(missing) => {
            let required: Vec<_> = missing.required.iter().map(|scope| scope.as_str()).collect();
            put("error", "insufficient_scope");
            scopes = Some(required.join(" "));
        }
        _ => return None,
    }
    if let Some(scopes) = scopes {
        put("scope", &scopes);
    }
    if let Some(url) = &options.resource_metadata {
        put("resource_metadata", url);
    }
    HeaderValue::try_from(challenge).ok()
}

/// Formats an amount as JSON does, without the cost of JSON, because every response has it.
fn cents_in_header(amount: Amount) -> Option<HeaderValue> {
    let micros = amount.as_micros();
    if micros % 10_000 == 0 {
        return Some(HeaderValue::from(micros / 10_000));
    }
    let sign = if micros < 0 { "-" } else { "" };
    let (cents, fraction) = (micros.unsigned_abs() / 10_000, micros.unsigned_abs() % 10_000);
    let mut text = [0_u8; 24];
    let mut rest = text.as_mut_slice();
    write!(rest, "{sign}{cents}.{fraction:04}").ok()?;
    let unused = rest.len();
    let text = text.get(..text.len() - unused)?;
    let zeros = text.iter().rev().take_while(|digit| **digit == b'0').count();
    HeaderValue::from_bytes(text.get(..text.len() - zeros)?).ok()
}

fn cents(amount: Amount) -> Value {
    serde_json::to_value(amount).unwrap_or(Value::Null)
}

fn seconds_until(now: Timestamp, at: Timestamp) -> u64 {
    let micros = at.as_microsecond().saturating_sub(now.as_microsecond());
    whole_seconds(u128::try_from(micros).unwrap_or(0)).max(1)
}

/// Rounds up, so that no client comes back too early.
fn whole_seconds(micros: u128) -> u64 {
    u64::try_from(micros.div_ceil(1_000_000)).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_header_says_what_json_would(micros in -10_i64.pow(15)..10_i64.pow(15), round in 0..5_u32) {
            let amount = Amount::micros(micros / 10_i64.pow(round) * 10_i64.pow(round));
            let header = cents_in_header(amount).unwrap();
            prop_assert_eq!(header.to_str().unwrap(), cents(amount).to_string());
        }
    }

    #[test]
    fn the_ends_of_amounts_fit_into_the_header() {
        assert_eq!(cents_in_header(Amount::MAX).unwrap(), "922337203685477.5807");
        assert_eq!(cents_in_header(Amount::micros(-i64::MAX)).unwrap(), "-922337203685477.5807");
        assert_eq!(cents_in_header(Amount::micros(1)).unwrap(), "0.0001");
    }
}
