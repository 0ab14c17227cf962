//! Reads the body of a request member by member, so that one answer names every field that is wrong.

use std::collections::HashSet;
use std::fmt;

use axum::body::Body;
use http::Request;
use http::header::CONTENT_TYPE;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use jiff::Timestamp;
use serde::de::{DeserializeOwned, Deserializer, MapAccess, Visitor};
use serde_json::Value;

use super::wire;
use crate::model::key::Expiry;
use crate::model::{Budget, FieldError, Period, Refusal, ScopeSet, Validity};

/// The most bytes of a body.
pub(super) const MAX_BODY: usize = 64 * 1_024;

/// How much of a client's own text an error repeats.
const MAX_ECHO: usize = 64;

/// The members of a body that are not read yet, and what was wrong with the others.
pub(super) struct Fields {
    members: Vec<(String, Value)>,
    errors: Vec<FieldError>,
}

impl Fields {
    /// Reads a body that is a JSON object. An empty body is an empty object.
    pub(super) async fn read(request: Request<Body>) -> Result<Self, Refusal> {
        let is_json = request.headers().get(CONTENT_TYPE).is_some_and(is_json);
        let limited = Limited::new(request.into_body(), MAX_BODY);
        let body = limited.collect().await.map_err(|error| {
            match error.downcast_ref::<LengthLimitError>() {
                Some(_) => Refusal::BodyTooLarge { max: MAX_BODY },
                None => invalid("", "could not be read to its end"),
            }
        })?;
        let body = body.to_bytes();
        if body.is_empty() {
            return Ok(Self { members: Vec::new(), errors: Vec::new() });
        }
        if !is_json {
            return Err(Refusal::UnsupportedMediaType);
        }
        let Members(members) =
            serde_json::from_slice(&body).map_err(|error| invalid("", error.to_string()))?;
        let errors = twice(&members);
        Ok(Self { members, errors })
    }

    /// Records what is wrong with a field.
    pub(super) fn error(&mut self, field: impl Into<String>, detail: impl Into<String>) {
        self.errors.push(FieldError::new(field, detail));
    }

    /// Returns whether something was wrong with a field.
    pub(super) fn has_error(&self, field: &str) -> bool {
        self.errors.iter().any(|error| error.field == field)
    }

    /// Returns a member, so that `Some(Value::Null)` is one that is there and `null`.
    fn take(&mut self, name: &str) -> Option<Value> {
        let at = self.members.iter().position(|(member, _)| member == name)?;
        Some(self.members.remove(at).1)
    }

    /// Reads a member; `None` where it is absent or wrong.
    pub(super) fn value<T: DeserializeOwned>(&mut self, name: &'static str) -> Option<T> {
        let value = self.take(name)?;
        match serde_json::from_value(value) {
            Ok(value) => Some(value),
            Err(error) => {
                self.error(name, error.to_string());
                None
            }
        }
    }

    /// Reads a text of at most 255 characters without control characters.
    pub(super) fn text(&mut self, name: &'static str) -> Option<String> {
        let text: String = self.value(name)?;
        if text.chars().count() > 255 || text.chars().any(char::is_control) {
            self.error(name, "has at most 255 characters, none of them a control character");
            return None;
        }
        Some(text)
    }

    pub(super) fn scopes(&mut self) -> Option<ScopeSet> {
        self.value("scopes")
    }

    /// Reads limits, each member of each by itself; `Some(None)` where they are `null`.
    pub(super) fn budgets(&mut self) -> Option<Option<Vec<wire::Limit>>> {
        let list = match self.take("budgets")? {
            Value::Null => return Some(None),
            Value::Array(list) => list,
            _ => {
                self.error("budgets", "is neither a list of limits nor null");
                return None;
            }
        };
        let before = self.errors.len();
        let limits: Vec<_> =
            list.into_iter().enumerate().filter_map(|(at, limit)| self.limit(at, limit)).collect();
        if self.errors.len() > before {
            return None;
        }
        if let Err(error) = budget_of(&limits) {
            self.error("budgets", error);
            return None;
        }
        Some(Some(limits))
    }

    fn limit(&mut self, at: usize, limit: Value) -> Option<wire::Limit> {
        let Value::Object(mut members) = limit else {
            self.error(format!("budgets[{at}]"), "is no object with limit_cents and period");
            return None;
        };
        let amount = members.remove("limit_cents");
        let period = members.remove("period");
        for name in members.keys() {
            self.error(format!("budgets[{at}].{}", echo(name)), "is not known");
        }
        let amount = self.limit_cents(at, amount);
        let period = self.period(at, period);
        Some(wire::Limit::new(amount?, period?))
    }

    fn limit_cents(&mut self, at: usize, value: Option<Value>) -> Option<crate::model::Amount> {
        let field = format!("budgets[{at}].limit_cents");
        let amount: crate::model::Amount = match value {
            None => return self.wrong(field, "is missing"),
            Some(Value::Null) => {
                let detail = "is null; leave the whole limit out for none, or send 0 for nothing";
                return self.wrong(field, detail);
            }
            Some(value) => match serde_json::from_value(value) {
                Ok(amount) => amount,
                Err(error) => return self.wrong(field, error.to_string()),
            },
        };
        match amount.is_negative() {
            true => self.wrong(field, "is below zero"),
            false => Some(amount),
        }
    }

    fn period(&mut self, at: usize, value: Option<Value>) -> Option<Period> {
        let field = format!("budgets[{at}].period");
        let Some(value) = value else { return self.wrong(field, "is missing") };
        match serde_json::from_value(value) {
            Ok(period) => Some(period),
            Err(error) => self.wrong(field, error.to_string()),
        }
    }

    fn wrong<T>(&mut self, field: String, detail: impl Into<String>) -> Option<T> {
        self.error(field, detail);
        None
    }

    /// Reads `expires_at` and `expires_in`. `now` is the store's time, where it is known.
    pub(super) fn expiry(
        &mut self,
        now: Option<Timestamp>,
    ) -> (Option<Option<Timestamp>>, Option<Validity>) {
        let at: Option<Option<Timestamp>> = self.value("expires_at");
        let validity: Option<Validity> = self.value("expires_in");
        if at.is_some() && validity.is_some() {
            self.error("expires_in", "and expires_at exclude each other");
        }
        if let (Some(Some(at)), Some(now)) = (at, now)
            && at <= now
        {
            self.error("expires_at", "is not in the future; to end a key now, revoke it");
        }
        if let (Some(validity), Some(now)) = (validity, now)
            && let Err(error) = validity.after(now)
        {
            self.error("expires_in", error.to_string());
        }
        (at, validity)
    }

    /// Refuses the request if a field was wrong, or one is left that the route does not know.
    pub(super) fn finish(self) -> Result<(), Refusal> {
        finish(self.members, self.errors)
    }
}

/// Names what is there twice.
pub(super) fn twice<T>(members: &[(String, T)]) -> Vec<FieldError> {
    let mut names = HashSet::new();
    let twice = members.iter().filter(|(name, _)| !names.insert(name.as_str()));
    twice.map(|(name, _)| FieldError::new(echo(name), "is there twice")).collect()
}

/// Refuses a request with these errors, or with members that the route did not read.
pub(super) fn finish<T>(
    left: Vec<(String, T)>,
    mut errors: Vec<FieldError>,
) -> Result<(), Refusal> {
    let mut named: HashSet<_> = errors.iter().map(|error| error.field.clone()).collect();
    let unknown = left.into_iter().map(|(name, _)| echo(&name));
    let unknown = unknown.filter(|name| named.insert(name.clone()));
    errors.extend(unknown.map(|name| FieldError::new(name, "is not known")));
    match errors.is_empty() {
        true => Ok(()),
        false => Err(Refusal::InvalidRequest(errors)),
    }
}

/// Returns the refusal of one field.
pub(super) fn invalid(field: &str, detail: impl Into<String>) -> Refusal {
    Refusal::InvalidRequest(vec![FieldError::new(field, detail)])
}

/// Returns the budget of these limits.
pub(super) fn budget_of(limits: &[wire::Limit]) -> Result<Budget, String> {
    let limits = limits.iter().map(|limit| (Some(limit.limit_cents), limit.period));
    Budget::from_limits(limits).map_err(|error| error.to_string())
}

/// Returns the expiry that a request gives a key; `None` where it names none.
pub(super) fn expiry_of(
    at: Option<Option<Timestamp>>,
    validity: Option<Validity>,
) -> Option<Expiry> {
    match (at, validity) {
        (Some(at), _) => Some(at.map_or(Expiry::Never, Expiry::At)),
        (None, validity) => validity.map(Expiry::In),
    }
}

/// Returns the beginning of a text that the client sent.
pub(super) fn echo(text: &str) -> String {
    text.chars().take(MAX_ECHO).collect()
}

fn is_json(value: &http::HeaderValue) -> bool {
    let value = value.to_str().unwrap_or_default();
    let media_type = value.split(';').next().unwrap_or_default().trim();
    media_type.eq_ignore_ascii_case("application/json")
}

/// The members of an object, in order, and those that are there twice too.
struct Members(Vec<(String, Value)>);

impl<'de> serde::Deserialize<'de> for Members {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object;
        impl<'de> Visitor<'de> for Object {
            type Value = Members;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(Object)
    }
}
