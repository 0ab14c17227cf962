//! New keys and patches in JSON, where an absent member, `null` and a value are three things.

use jiff::Timestamp;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer};

use crate::model::key::{Expiry, Owner};
use crate::model::{
    AccountId, Budget, Cidrs, KeyId, KeyPatch, Metadata, NewKey, RateLimit, ScopeSet, TokenPrefix,
    Validity,
};

/// A [`NewKey`] in JSON.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NewKeyJson {
    account: Option<AccountId>,
    parent: Option<KeyId>,
    #[serde(default)]
    name: String,
    #[serde(default, deserialize_with = "present")]
    scopes: Option<ScopeSet>,
    budgets: Option<Budget>,
    rate_limit: Option<RateLimit>,
    allowed_cidrs: Option<Cidrs>,
    expires_at: Option<Timestamp>,
    expires_in: Option<Validity>,
    prefix: Option<String>,
    delegated_by: Option<String>,
    #[serde(default)]
    metadata: Metadata,
}

impl<'de> Deserialize<'de> for NewKey {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let json = NewKeyJson::deserialize(deserializer)?;
        let owner = match (json.account, json.parent) {
            (Some(account), None) => Owner::Account(account),
            (None, Some(parent)) => Owner::Parent(parent),
            _ => return Err(D::Error::custom("a new key has either `account` or `parent`")),
        };
        let prefix = json.prefix.map(|prefix| prefix.parse::<TokenPrefix>());
        Ok(Self {
            owner,
            name: json.name,
            scopes: json.scopes.unwrap_or_default(),
            budget: json.budgets.unwrap_or_default(),
            rate_limit: json.rate_limit,
            allowed_cidrs: json.allowed_cidrs,
            expiry: expiry(json.expires_at.map(Some), json.expires_in)?.unwrap_or(Expiry::Never),
            prefix: prefix.transpose().map_err(D::Error::custom)?,
            delegated_by: json.delegated_by,
            metadata: json.metadata,
        })
    }
}

/// A [`KeyPatch`] in JSON.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct KeyPatchJson {
    #[serde(default, deserialize_with = "present")]
    name: Option<String>,
    #[serde(default, deserialize_with = "present")]
    scopes: Option<ScopeSet>,
    #[serde(default, deserialize_with = "present")]
    budgets: Option<Option<Budget>>,
    #[serde(default, deserialize_with = "present")]
    rate_limit: Option<Option<RateLimit>>,
    #[serde(default, deserialize_with = "present")]
    allowed_cidrs: Option<Option<Cidrs>>,
    #[serde(default, deserialize_with = "present")]
    expires_at: Option<Option<Timestamp>>,
    #[serde(default, deserialize_with = "present")]
    expires_in: Option<Validity>,
    #[serde(default, deserialize_with = "present")]
    metadata: Option<Metadata>,
    #[serde(default, deserialize_with = "present")]
    disabled: Option<bool>,
}

impl<'de> Deserialize<'de> for KeyPatch {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let json = KeyPatchJson::deserialize(deserializer)?;
        Ok(Self {
            name: json.name,
            scopes: json.scopes,
            budget: json.budgets.map(Option::unwrap_or_default),
            rate_limit: json.rate_limit,
            allowed_cidrs: json.allowed_cidrs,
            expiry: expiry(json.expires_at, json.expires_in)?,
            metadata: json.metadata,
            is_disabled: json.disabled,
        })
    }
}

/// Reads a member that is there, so that `null` is not taken for a missing one.
pub(crate) fn present<'de, D: Deserializer<'de>, T: Deserialize<'de>>(
    deserializer: D,
) -> Result<Option<T>, D::Error> {
    T::deserialize(deserializer).map(Some)
}

fn expiry<E: serde::de::Error>(
    at: Option<Option<Timestamp>>,
    after: Option<Validity>,
) -> Result<Option<Expiry>, E> {
    match (at, after) {
        (Some(_), Some(_)) => Err(E::custom("`expires_at` and `expires_in` exclude each other")),
        (Some(at), None) => Ok(Some(at.map_or(Expiry::Never, Expiry::At))),
        (None, after) => Ok(after.map(Expiry::In)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Amount;

    fn patch(json: &str) -> Result<KeyPatch, String> {
        serde_json::from_str(json).map_err(|error| error.to_string())
    }

    #[test]
    fn absent_null_and_a_value_are_three_things() {
        let absent = patch("{}").unwrap();
        assert!(absent.scopes.is_none() && absent.budget.is_none() && absent.expiry.is_none());
        assert!(absent.rate_limit.is_none() && absent.allowed_cidrs.is_none());
        assert!(absent.metadata.is_none() && absent.name.is_none() && absent.is_disabled.is_none());

        let null = patch(
            r#"{"scopes":null,"budgets":null,"expires_at":null,"metadata":null,"rate_limit":null,
                "allowed_cidrs":null}"#,
        );
        let null = null.unwrap();
        assert_eq!((null.rate_limit, null.allowed_cidrs), (Some(None), Some(None)));
        assert!(null.scopes.unwrap().is_unrestricted());
        assert_eq!(null.budget, Some(Budget::unlimited()));
        assert_eq!(null.expiry, Some(Expiry::Never));
        assert!(null.metadata.unwrap().is_empty());

        let value = patch(
            r#"{"name":"a","scopes":[],"budgets":[{"limit_cents":0,"period":"day"}],
                "expires_in":"1h","metadata":{"a":1},"disabled":true,"allowed_cidrs":[],
                "rate_limit":{"requests":100,"window_seconds":60}}"#,
        );
        let value = value.unwrap();
        assert_eq!(value.rate_limit, Some(Some(RateLimit::per_minute(100))));
        assert_eq!(value.allowed_cidrs, Some(Some(Cidrs::parse([]).unwrap())));
        assert_eq!(value.scopes, Some(ScopeSet::none()));
        assert_eq!(value.budget, Some(Budget::daily(Amount::ZERO)));
        assert_eq!(value.expiry, Some(Expiry::In(Validity::hours(1))));
        assert_eq!((value.name.as_deref(), value.is_disabled), (Some("a"), Some(true)));
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for (json, text) in [
            (r#"{"name":null}"#, "invalid type: null"),
            (r#"{"disabled":null}"#, "invalid type: null"),
            (r#"{"expires_in":null}"#, "invalid type: null"),
            (r#"{"limit_cents":5}"#, "unknown field `limit_cents`"),
            (r#"{"delegated_by":"user_9"}"#, "unknown field `delegated_by`"),
            (r#"{"expires_in":"1h","expires_at":null}"#, "`expires_at` and `expires_in` exclude"),
        ] {
            let error = patch(json).unwrap_err();
            assert!(error.starts_with(text), "{json}: {error}");
        }
        let new = |json: &str| serde_json::from_str::<NewKey>(json).map_err(|e| e.to_string());
        for json in [r#"{"name":"a"}"#, r#"{"account":"a","parent":1}"#] {
            let error = new(json).unwrap_err();
            assert!(error.starts_with("a new key has either `account` or `parent`"), "{error}");
        }
        assert!(new(r#"{"account":"acme","token":"x"}"#).unwrap_err().starts_with("unknown field"));
    }

    #[test]
    fn a_new_key_has_nothing_that_it_was_not_given() {
        let new: NewKey = serde_json::from_str(r#"{"account":"acme"}"#).unwrap();
        assert_eq!((new.scopes, new.expiry), (ScopeSet::none(), Expiry::Never));
        let new: NewKey = serde_json::from_str(r#"{"parent":7,"scopes":null}"#).unwrap();
        assert!(new.scopes.is_unrestricted());
        assert!(matches!(new.owner, Owner::Parent(id) if id == KeyId::new(7)));
    }
}
