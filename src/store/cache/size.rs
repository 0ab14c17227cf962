//! How many bytes what is cached takes, by an estimate.

use serde_json::Value;

use crate::ledger::HoldRow;
use crate::model::{Key, PostingId};

/// The estimated overhead of a text or a table entry, in bytes.
pub(super) const OVERHEAD: usize = 128;

/// Returns the size of what a key has beside its own record.
pub(super) fn texts_of_key(key: &Key) -> usize {
    // All fields are named, so that a new one is not left out.
    let Key {
        name,
        prefix,
        start,
        subject,
        scopes,
        allowed_cidrs,
        revoked_reason,
        delegated_by,
        metadata,
        id: _,
        account: _,
        parent: _,
        budget: _,
        rate_limit: _,
        created_at: _,
        anchor: _,
        expires_at: _,
        disabled_at: _,
        revoked_at: _,
        balance: _,
    } = key;
    let text = |text: &Option<String>| text.as_ref().map_or(0, String::len);
    let subject = subject.as_ref().map_or(0, |it| it.issuer().len() + it.id().len());
    let scopes: usize =
        scopes.iter().map(|scope| size_of_val(scope) + scope.as_str().len() + OVERHEAD / 4).sum();
    let ranges = allowed_cidrs.as_ref().map_or(0, |it| size_of_val(it.ranges()));
    let metadata = metadata.iter().map(size_of_member).sum::<usize>();
    name.len()
        + prefix.len()
        + start.len()
        + subject
        + scopes
        + ranges
        + text(revoked_reason)
        + text(delegated_by)
        + metadata
}

fn size_of_member((name, value): (&String, &Value)) -> usize {
    OVERHEAD / 4 + size_of::<String>() + name.len() + size_of_value(value)
}

fn size_of_value(value: &Value) -> usize {
    let beside = match value {
        Value::String(text) => text.len(),
        Value::Array(values) => values.iter().map(size_of_value).sum(),
        Value::Object(members) => members.iter().map(size_of_member).sum(),
        Value::Null | Value::Bool(_) | Value::Number(_) => 0,
    };
    size_of::<Value>() + beside
}

pub(super) fn size_of_hold(hold: &HoldRow) -> usize {
    let labels: usize =
        hold.note.labels.iter().map(|(name, value)| name.len() + value.len() + OVERHEAD / 2).sum();
    let reference = hold.note.reference.as_ref().map_or(0, |reference| reference.len());
    OVERHEAD + size_of::<(PostingId, HoldRow)>() + size_of_val(&*hold.path) + labels + reference
}

#[cfg(test)]
mod tests {
    use ipnet::IpNet;
    use jiff::Timestamp;

    use super::*;
    use crate::model::{AccountId, Balance, Budget, Cidrs, KeyId, Subject};

    /// Sets a field.
    type Set<'a> = &'a dyn Fn(&mut Key);

    #[test]
    fn everything_that_a_key_may_have_counts() {
        let account = AccountId::new("acme").unwrap();
        let (at, long) = (Timestamp::UNIX_EPOCH, "x".repeat(255));
        let balance = Balance::empty(&Budget::unlimited(), at, at);
        let bare = Key::stored(KeyId::new(1), account, at, balance);
        let ranges: Vec<_> = (0..64).map(|n| format!("2001:db8:{n:x}::/48")).collect();
        let members: Vec<_> = (0..250).map(|n| format!("\"m{n}\": {n}")).collect();
        let metadata = format!("{{{}, \"deep\": [{{\"text\": \"{long}\"}}]}}", members.join(", "));
        let fields: [(&str, usize, Set<'_>); 9] = [
            ("name", 255, &|key| key.name.clone_from(&long)),
            ("prefix", 255, &|key| key.prefix.clone_from(&long)),
            ("start", 255, &|key| key.start.clone_from(&long)),
            ("subject", 260, &|key| key.subject = Subject::new("https://issuer", &long).ok()),
            ("scopes", 100, &|key| {
                key.scopes = ["a".repeat(100).parse().unwrap()].into_iter().collect()
            }),
            ("allowed_cidrs", 64 * size_of::<IpNet>(), &|key| {
                key.allowed_cidrs = Cidrs::parse(ranges.iter().map(String::as_str)).ok();
            }),
            ("delegated_by", 255, &|key| key.delegated_by = Some(long.clone())),
            ("revoked_reason", 255, &|key| key.revoked_reason = Some(long.clone())),
            ("metadata", 250 * size_of::<(String, Value)>() + 255, &|key| {
                key.metadata = metadata.parse().unwrap();
            }),
        ];
        for (field, bytes, set) in fields {
            let mut key = bare.clone();
            set(&mut key);
            assert_ne!(key, bare, "{field}");
            let grown = texts_of_key(&key) - texts_of_key(&bare);
            assert!((bytes..4 * bytes).contains(&grown), "{field}: {grown} of {bytes}");
        }
    }
}
