//! Roll-ups: the sums that stay of entries which are no longer kept one by one.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use jiff::Timestamp;
use sha2::{Digest, Sha256};

use crate::model::clock::from_micros;
use crate::model::{AccountId, Entry, EntryId, EntryKind, KeyId, Labels};

/// The sums of the entries of one key, one day and one set of labels.
///
/// Sums are in micro-units. They have room for any number of entries.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Rollup {
    pub account: AccountId,
    /// `None` for adjustments of the account itself.
    pub key: Option<KeyId>,
    /// The start of the day in UTC. The whole sum counts at this instant.
    pub counts_at: Timestamp,
    pub labels: Labels,
    /// What was charged, less what was refunded.
    pub amount: i128,
    /// The number of charges that were not refunded whole.
    pub charges: i64,
    /// The sum of the adjustments.
    pub adjusted: i128,
}

impl Rollup {
    /// Returns the id of its row. Roll-ups with one id are added up.
    pub fn id(&self) -> [u8; 16] {
        let mut digest = Sha256::new();
        let mut part = |text: &str| {
            digest.update((text.len() as u64).to_be_bytes());
            digest.update(text);
        };
        part(self.account.as_str());
        part(&self.key.map_or_else(String::new, |key| key.to_string()));
        part(&self.counts_at.as_microsecond().to_string());
        for (name, value) in self.labels.iter() {
            part(name);
            part(value);
        }
        let digest: [u8; 32] = digest.finalize().into();
        let mut id = [0; 16];
        id.iter_mut().zip(digest).for_each(|(byte, of_digest)| *byte = of_digest);
        id
    }
}

/// Returns the start of the day of an instant, in UTC.
pub fn day_start(at: Timestamp) -> Timestamp {
    const DAY: i64 = Duration::from_secs(24 * 3_600).as_micros() as i64;
    let micros = at.as_microsecond();
    from_micros(micros - micros.rem_euclid(DAY))
}

/// Sums up entries, each charge together with all its refunds. Labels with these names are left out.
pub fn roll_up(entries: &[Entry], left_out: &[String]) -> Vec<Rollup> {
    let mut refunded: HashMap<EntryId, i128> = HashMap::new();
    for entry in entries {
        if let Some(of) = entry.refunds {
            *refunded.entry(of).or_default() -= i128::from(entry.amount.as_micros());
        }
    }
    let mut rollups = BTreeMap::new();
    for entry in entries {
        let mut labels = entry.note.labels.clone();
        left_out.iter().for_each(|name| labels.remove(name));
        let counts_at = day_start(entry.counts_at);
        let group = (entry.account.clone(), entry.key, counts_at, labels);
        let sums: &mut (i128, i64, i128) = rollups.entry(group).or_default();
        let micros = i128::from(entry.amount.as_micros());
        match entry.kind {
            EntryKind::Adjust => sums.2 += micros,
            EntryKind::Refund => sums.0 += micros,
            EntryKind::Settle | EntryKind::Pay | EntryKind::Expiry | EntryKind::Opening => {
                let given_back = refunded.get(&entry.id).copied().unwrap_or(0);
                let is_kept = given_back <= 0 || given_back < micros;
                sums.0 += micros;
                sums.1 += i64::from(is_kept);
            }
        }
    }
    let rollup = |((account, key, counts_at, labels), (amount, charges, adjusted))| Rollup {
        account,
        key,
        counts_at,
        labels,
        amount,
        charges,
        adjusted,
    };
    rollups.into_iter().map(rollup).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_day_starts_at_or_before_its_instants() {
        for (at, start) in [
            ("2026-01-31T23:59:59.999999Z", "2026-01-31T00:00:00Z"),
            ("2026-02-01T00:00:00Z", "2026-02-01T00:00:00Z"),
            ("1969-12-31T00:00:00.000001Z", "1969-12-31T00:00:00Z"),
        ] {
            let instant = |text: &str| text.parse::<Timestamp>().unwrap();
            assert_eq!(day_start(instant(at)), instant(start));
        }
    }

    #[test]
    fn another_group_has_another_id() {
        let mut labels = Labels::new();
        labels.insert("a", "bc").unwrap();
        let group = |account: &str, key: Option<i64>, labels: &Labels| Rollup {
            account: account.parse().unwrap(),
            key: key.map(KeyId::new),
            counts_at: Timestamp::UNIX_EPOCH,
            labels: labels.clone(),
            amount: 0,
            charges: 0,
            adjusted: 0,
        };
        let mut others = Labels::new();
        others.insert("ab", "c").unwrap();
        let ids = [
            group("acme", Some(1), &labels).id(),
            group("acme", Some(1), &others).id(),
            group("acme", Some(1), &Labels::new()).id(),
            group("acme", None, &labels).id(),
            group("acme1", None, &labels).id(),
        ];
        for (n, id) in ids.iter().enumerate() {
            assert!(!ids[..n].contains(id), "{n}");
        }
    }
}
