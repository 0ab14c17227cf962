//! Validates the cache. An account is valid if its version is unchanged, and a key if the version of its row is. All
//! versions must come from one incarnation of the server. Another server may have another history with the same numbers
//! in it. The server behind a name or a pooler can change without a broken connection. So every query names the
//! incarnation.

use std::collections::{HashMap, HashSet};

use jiff::Timestamp;

use super::types::RowVersion;
use crate::model::{AccountId, KeyId};
use crate::store::account_row::AccountRow;
use crate::store::cache::{AccountCache, ExpectedVersion, Revalidation, Validator};

pub(super) enum ByRowVersion {}

pub(super) type Cache = AccountCache<ByRowVersion>;

/// The versions that a decision was based on.
pub(super) type Expected = ExpectedVersion<ByRowVersion>;

/// The answer to a revalidation.
pub(super) struct CurrentVersions {
    incarnation: Option<Timestamp>,
    versions: HashMap<AccountId, i64>,
    current: HashMap<KeyId, RowVersion>,
}

impl CurrentVersions {
    /// Builds the answer from the keys whose rows have changed, and from the versions of accounts. There are no account
    /// versions if another incarnation answered.
    pub(super) fn new(
        revalidation: &Revalidation<ByRowVersion>,
        changed: &HashSet<KeyId>,
        versions: HashMap<AccountId, i64>,
    ) -> Self {
        let current = revalidation.keys.iter().filter(|(key, _)| !changed.contains(key));
        let current = current.map(|(key, version)| (*key, *version)).collect();
        Self { incarnation: revalidation.epoch.filter(|_| !versions.is_empty()), versions, current }
    }
}

impl Validator for ByRowVersion {
    /// The instant when the server was started.
    type Epoch = Timestamp;
    type RowVersion = RowVersion;
    type Answer = CurrentVersions;

    fn epoch(answer: &CurrentVersions) -> Option<Timestamp> {
        answer.incarnation
    }

    fn account_version(answer: &CurrentVersions, cached: &AccountRow) -> Option<i64> {
        answer.versions.get(&cached.account.id).copied()
    }

    fn is_current(answer: &CurrentVersions, key: KeyId, cached: RowVersion) -> bool {
        answer.current.get(&key) == Some(&cached)
    }
}
