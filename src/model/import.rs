//! Keys whose tokens another program made.

use jiff::Timestamp;
use serde::Deserialize;
use serde_json::Value;

use crate::model::{
    AccountId, Amount, Budget, Cidrs, KeyId, Metadata, NewKey, Period, RateLimit, ScopeSet,
    TokenHash,
};

/// A key whose token another program made. It is known by the hash of its token.
///
/// ```
/// use agentkey::{Amount, Budget, KeyImport, NewKey, Opening, ScopeSet};
/// use agentkey::model::TokenHash;
///
/// let hash = TokenHash::parse("ungWv48Bz-pBQUDeXa4iI7ADYaOWF3qctBD_YfIAFa0")?;
/// let key = NewKey::new("acme".parse()?)
///     .scopes(ScopeSet::parse(["read"])?)
///     .budget(Budget::monthly(Amount::cents(5_000)));
/// let opening = Opening::spent(Amount::cents(1_200)).resets_at("2026-12-26T00:00:00Z".parse()?);
/// let import = KeyImport::new(key, hash).start("sk-1").opening(opening);
/// # let _ = import; Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// It also deserialises from a flat record of texts, as a `SELECT` or a CSV file has them. The
/// record names its members as follows; what is missing, null or empty has the default.
///
/// | Member | Default | Meaning |
/// |---|---|---|
/// | `hash` | required | the SHA-256 of the token, as [`TokenHash::parse`] reads it |
/// | `account` | required | the account |
/// | `scopes` | required | scopes with spaces between them; `*` is unrestricted, empty is none |
/// | `name`, `start` | empty | the name, and the start of the token for lists |
/// | `budget` | none | the limit in units of money, as [`Amount::parse_rounding_up`] reads them |
/// | `period` | `lifetime` | the period of the limit |
/// | `spent` | `0` | units of money that are spent in the current window |
/// | `resets_at` | counted from the import | the end of that window, as RFC 3339 has it |
/// | `expires_at` | never | the expiry, as RFC 3339 has it |
/// | `disabled` | `false` | whether the key is disabled |
/// | `delegated_by` | none | the human on whose behalf the key acts |
/// | `metadata` | none | a JSON object |
/// | `rate_limit` | none | a [`RateLimit`] in JSON, as an object or as its text |
/// | `allowed_cidrs` | any address | a list of ranges, or a text with spaces between them; an empty list is nowhere |
///
/// ```
/// use agentkey::KeyImport;
///
/// let line = r#"{"hash": "ungWv48Bz-pBQUDeXa4iI7ADYaOWF3qctBD_YfIAFa0", "account": "acme", "scopes": "read",
///     "budget": "50.0", "period": "month", "spent": "0.1", "resets_at": "2026-12-26T00:00:00+00:00"}"#;
/// let import: KeyImport = serde_json::from_str(line)?;
/// # let _ = import; Ok::<(), serde_json::Error>(())
/// ```
#[derive(Clone, Debug, Deserialize)]
#[serde(try_from = "FlatRecord")]
#[must_use = "a `KeyImport` takes effect through `AgentKeys::import`"]
pub struct KeyImport {
    pub(crate) new: NewKey,
    pub(crate) hash: TokenHash,
    pub(crate) start: String,
    pub(crate) opening: Opening,
    pub(crate) is_disabled: bool,
}

/// What an imported key has spent in its current window, and where that window ends.
///
/// What was spent counts against each of the key's limits, its parents' and its account's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Opening {
    /// What the key has spent in the window.
    pub spent: Amount,
    /// The end of the window. The key's later windows are counted from it.
    pub resets_at: Option<Timestamp>,
}

/// What an import of one key came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Imported {
    /// The key was made, and has this id.
    New(KeyId),
    /// A key with this id has the token, or had it before a rotation. Nothing was changed.
    Known(KeyId),
}

impl KeyImport {
    /// Returns an import of `key` with the token that has this hash, and nothing spent.
    pub fn new(key: NewKey, hash: TokenHash) -> Self {
        let (start, opening) = (String::new(), Opening::default());
        Self { new: key, hash, start, opening, is_disabled: false }
    }

    /// Sets the start of the token, by which people recognise it, of up to 64 characters. Default:
    /// empty.
    pub fn start(mut self, start: impl Into<String>) -> Self {
        self.start = start.into();
        self
    }

    /// Sets what the key has spent. Default: nothing.
    pub fn opening(mut self, opening: Opening) -> Self {
        self.opening = opening;
        self
    }

    /// Sets whether the key is disabled. Default: it is not.
    pub fn disabled(mut self, is_disabled: bool) -> Self {
        self.is_disabled = is_disabled;
        self
    }
}

impl Opening {
    /// Returns what was spent, in a window that is counted from the import.
    pub const fn spent(amount: Amount) -> Self {
        Self { spent: amount, resets_at: None }
    }

    /// Sets the end of the window. If it has passed, what was spent in the window counts no more.
    pub const fn resets_at(mut self, at: Timestamp) -> Self {
        self.resets_at = Some(at);
        self
    }
}

impl Imported {
    /// Returns the id of the key.
    pub const fn key(self) -> KeyId {
        match self {
            Self::New(key) | Self::Known(key) => key,
        }
    }
}

/// A record of texts.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FlatRecord {
    hash: String,
    account: String,
    scopes: String,
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    start: Option<String>,
    #[serde(default)]
    budget: Option<String>,
    #[serde(default)]
    period: Option<String>,
    #[serde(default)]
    spent: Option<String>,
    #[serde(default)]
    resets_at: Option<String>,
    #[serde(default)]
    expires_at: Option<String>,
    #[serde(default)]
    disabled: Option<bool>,
    #[serde(default)]
    delegated_by: Option<String>,
    #[serde(default)]
    metadata: Option<String>,
    #[serde(default)]
    rate_limit: Option<Value>,
    #[serde(default)]
    allowed_cidrs: Option<Value>,
}

impl TryFrom<FlatRecord> for KeyImport {
    type Error = String;

    fn try_from(record: FlatRecord) -> Result<Self, String> {
        let account: AccountId = read("account", record.account.parse())?;
        let scopes = match record.scopes.trim() {
            "*" => ScopeSet::unrestricted(),
            list => read("scopes", ScopeSet::parse(list.split_whitespace()))?,
        };
        let limit = optional("budget", record.budget.as_deref(), Amount::parse_rounding_up)?;
        let period = optional("period", record.period.as_deref(), str::parse::<Period>)?;
        let spent = optional("spent", record.spent.as_deref(), Amount::parse_rounding_up)?;
        let instant = |field, text: Option<&str>| optional(field, text, str::parse::<Timestamp>);
        let mut key = NewKey::new(account)
            .name(record.name.unwrap_or_default())
            .scopes(scopes)
            .budget(Budget::new(limit, period.unwrap_or_default()));
        if let Some(at) = instant("expires_at", record.expires_at.as_deref())? {
            key = key.expires_at(at);
        }
        if let Some(human) = record.delegated_by.filter(|human| !human.is_empty()) {
            key = key.delegated_by(human);
        }
        if let Some(metadata) =
            optional("metadata", record.metadata.as_deref(), str::parse::<Metadata>)?
        {
            key = key.metadata(metadata);
        }
        if let Some(limit) = record.rate_limit.filter(|value| !is_empty(value)) {
            key = key.rate_limit(read("rate_limit", rate_limit(limit))?);
        }
        if let Some(ranges) = record.allowed_cidrs.filter(|value| !is_empty(value)) {
            key = key.allowed_cidrs(read("allowed_cidrs", cidrs(ranges))?);
        }
        let resets_at = instant("resets_at", record.resets_at.as_deref())?;
        let opening = Opening { spent: spent.unwrap_or_default(), resets_at };
        Ok(Self::new(key, read("hash", TokenHash::parse(&record.hash))?)
            .start(record.start.unwrap_or_default())
            .opening(opening)
            .disabled(record.disabled.unwrap_or_default()))
    }
}

/// Returns whether a member has the empty text of a CSV file. An empty list is a value.
fn is_empty(value: &Value) -> bool {
    value.as_str().is_some_and(|text| text.trim().is_empty())
}

/// Reads an object, or its text.
fn rate_limit(value: Value) -> Result<RateLimit, String> {
    let read = match value {
        Value::String(text) => serde_json::from_str(&text),
        Value::Object(_) => serde_json::from_value(value),
        _ => {
            return Err(r#"it is an object such as {"requests": 100, "window_seconds": 60}"#.into());
        }
    };
    read.map_err(|error| error.to_string())
}

/// Reads a list of ranges, or a text with spaces between them.
fn cidrs(value: Value) -> Result<Cidrs, String> {
    match value {
        Value::String(text) => {
            Cidrs::parse(text.split_whitespace()).map_err(|error| error.to_string())
        }
        list => serde_json::from_value(list).map_err(|error| error.to_string()),
    }
}

/// Names the member that cannot be read.
fn read<T, E: std::fmt::Display>(member: &str, value: Result<T, E>) -> Result<T, String> {
    value.map_err(|error| format!("{member}: {error}"))
}

fn optional<'t, T, E: std::fmt::Display>(
    member: &str,
    text: Option<&'t str>,
    parse: impl Fn(&'t str) -> Result<T, E>,
) -> Result<Option<T>, String> {
    text.filter(|text| !text.is_empty()).map(|text| read(member, parse(text))).transpose()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::key::{Expiry, Owner};

    const HASH: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

    fn record(rest: &str) -> Result<KeyImport, String> {
        let line =
            format!(r#"{{"hash": "{HASH}", "account": "acme", "scopes": "read proxy.*"{rest}}}"#);
        serde_json::from_str(&line).map_err(|error| error.to_string())
    }

    #[test]
    fn a_record_has_what_a_key_has() {
        let import = record(
            r#", "name": "a", "start": "sk-1", "budget": "0.1", "period": "month", "spent": "1e-05",
            "resets_at": "2026-12-26T00:00:00+00:00", "expires_at": "2027-01-01 00:00:00Z", "disabled": true,
            "delegated_by": "user_1", "metadata": "{\"team\": 1}""#,
        )
        .unwrap();
        assert_eq!(import.hash, TokenHash::digest("abc"));
        assert!(matches!(&import.new.owner, Owner::Account(account) if account.as_str() == "acme"));
        assert_eq!(import.new.scopes, ScopeSet::parse(["read", "proxy.*"]).unwrap());
        assert_eq!(import.new.budget, Budget::monthly(Amount::cents(10)));
        assert_eq!(import.new.expiry, Expiry::At("2027-01-01T00:00:00Z".parse().unwrap()));
        assert_eq!(import.new.delegated_by.as_deref(), Some("user_1"));
        assert_eq!(import.new.metadata.to_string(), r#"{"team":1}"#);
        assert_eq!((import.new.name.as_str(), import.start.as_str()), ("a", "sk-1"));
        let resets_at = "2026-12-26T00:00:00Z".parse().unwrap();
        assert_eq!(import.opening, Opening::spent(Amount::micros(10)).resets_at(resets_at));
        assert!(import.is_disabled);
    }

    #[test]
    fn limits_of_requests_are_json_or_its_text() {
        let limit = RateLimit::per_minute(100).burst(20).in_flight(4);
        let ranges = Cidrs::parse(["192.0.2.0/24", "2001:db8::1"]).unwrap();
        for rest in [
            r#", "rate_limit": {"requests": 100, "window_seconds": 60, "burst": 20, "in_flight": 4},
                "allowed_cidrs": ["192.0.2.0/24", "2001:db8::1/128"]"#,
            r#", "rate_limit": "{\"requests\": 100, \"window_seconds\": 60, \"burst\": 20, \"in_flight\": 4}",
                "allowed_cidrs": " 192.0.2.0/24  2001:db8::1""#,
        ] {
            let import = record(rest).unwrap();
            assert_eq!(import.new.rate_limit, Some(limit));
            assert_eq!(import.new.allowed_cidrs, Some(ranges.clone()));
        }
        let nowhere = record(r#", "allowed_cidrs": []"#).unwrap();
        assert_eq!(nowhere.new.allowed_cidrs, Some(Cidrs::nowhere()), "an empty list is a value");
    }

    /// The reader of CSV tells numbers from texts by itself.
    #[test]
    fn limits_of_requests_come_from_a_csv_file() {
        let csv = format!(
            "hash,account,scopes,rate_limit,allowed_cidrs\n\
             {HASH},acme,read,\"{{\"\"requests\"\": 5, \"\"window_seconds\"\": 1}}\",192.0.2.0/24 ::1\n\
             {HASH},acme,read,,\n\
             {HASH},acme,read,100,\n"
        );
        let mut records = csv::Reader::from_reader(csv.as_bytes()).into_deserialize::<KeyImport>();
        let first = records.next().unwrap().unwrap().new;
        assert_eq!(first.rate_limit, Some(RateLimit::per_second(5)));
        assert_eq!(first.allowed_cidrs, Some(Cidrs::parse(["192.0.2.0/24", "::1"]).unwrap()));
        let second = records.next().unwrap().unwrap().new;
        assert_eq!((second.rate_limit, second.allowed_cidrs), (None, None));
        let error = records.next().unwrap().unwrap_err().to_string();
        assert!(error.contains("rate_limit: it is an object such as"), "{error}");
    }

    #[test]
    fn what_is_empty_null_or_missing_has_the_default() {
        for rest in [
            "",
            r#", "budget": null, "period": null, "spent": null, "resets_at": null, "expires_at": null, "disabled": null,
                "rate_limit": null, "allowed_cidrs": null"#,
            r#", "budget": "", "period": "", "spent": "", "resets_at": "", "delegated_by": "", "metadata": "",
                "rate_limit": "", "allowed_cidrs": """#,
        ] {
            let import = record(rest).unwrap();
            assert_eq!(import.new.budget, Budget::unlimited());
            assert_eq!((import.new.expiry, import.opening), (Expiry::Never, Opening::default()));
            assert!(!import.is_disabled && import.new.delegated_by.is_none());
            assert!(import.new.rate_limit.is_none() && import.new.allowed_cidrs.is_none());
        }
        let scopes = |text: &str| {
            let line = format!(r#"{{"hash": "{HASH}", "account": "a", "scopes": "{text}"}}"#);
            serde_json::from_str::<KeyImport>(&line).unwrap().new.scopes
        };
        assert_eq!(scopes(""), ScopeSet::none());
        assert_eq!(scopes("*"), ScopeSet::unrestricted());
    }

    #[test]
    fn an_error_names_the_member() {
        for (rest, error) in [
            (r#", "budget": "$5""#, "budget: an amount is a decimal number"),
            (r#", "period": "30d""#, "period: a period is one of lifetime, day, week"),
            (r#", "spent": "NaN""#, "spent: an amount is a decimal number"),
            (r#", "resets_at": "soon""#, "resets_at: "),
            (r#", "metadata": "[]""#, "metadata: metadata is a JSON object"),
            (r#", "rate_limit": {"requests": 5}"#, "rate_limit: a rate limit has requests and"),
            (r#", "rate_limit": {"per": 5}"#, "rate_limit: unknown field `per`"),
            (r#", "rate_limit": 5"#, "rate_limit: it is an object such as"),
            (r#", "rate_limit": "5/m""#, "rate_limit: "),
            (r#", "allowed_cidrs": "192.0.2.1/24""#, "allowed_cidrs: 192.0.2.1/24 has bits"),
            (r#", "allowed_cidrs": ["office"]"#, "allowed_cidrs: \"office\" is no range"),
            (r#", "allowed_cidrs": {}"#, "allowed_cidrs: invalid type: map"),
            (r#", "limit": "5""#, "unknown field `limit`"),
        ] {
            let found = record(rest).unwrap_err();
            assert!(found.starts_with(error), "{found}");
        }
        for (line, error) in [
            (
                r#"{"hash": "x", "account": "a", "scopes": ""}"#,
                "hash: a SHA-256 is 64 hexadecimal digits",
            ),
            (r#"{"hash": "x", "account": "", "scopes": ""}"#, "account: "),
            (r#"{"hash": "x", "account": "a", "scopes": "a,b"}"#, "scopes: a scope has no comma"),
            (r#"{"hash": "x", "account": "a", "scopes": null}"#, "invalid type: null"),
            (r#"{"hash": "x", "account": "a"}"#, "missing field `scopes`"),
        ] {
            let found = serde_json::from_str::<KeyImport>(line).unwrap_err().to_string();
            assert!(found.starts_with(error), "{found}");
        }
    }
}
