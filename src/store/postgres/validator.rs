//! What is valid of what is cached: an account whose version is the same, keys whose rows have the same version, and all of
//! it told by one server since it was started. Another server may have another history, with the same numbers in it; which
//! one stands behind a name or a pooler changes without a connection breaking. So whatever is asked names the incarnation.

use std::collections::{HashMap, HashSet};

use jiff::Timestamp;

use super::types::RowVersion;
use crate::model::{AccountId, KeyId};
use crate::store::account_row::AccountRow;
use crate::store::cache::{AccountCache, ExpectedVersion, Revalidation, Validator};

pub(super) enum ByRowVersion {}

pub(super) type Cache = AccountCache<ByRowVersion>;

/// What a decision was based on.
pub(super) type Expected = ExpectedVersion<ByRowVersion>;

/// What a revalidation was answered.
pub(super) struct CurrentVersions {
    incarnation: Option<Timestamp>,
    versions: HashMap<AccountId, i64>,
    current: HashMap<KeyId, RowVersion>,
}

impl CurrentVersions {
    /// Takes keys whose rows have changed, and the versions of accounts: there are none where another incarnation answered than
    /// was asked about.
    pub(super) fn new(
        asked: &Revalidation<ByRowVersion>,
        changed: &HashSet<KeyId>,
        versions: HashMap<AccountId, i64>,
    ) -> Self {
        let current = asked.keys.iter().filter(|(key, _)| !changed.contains(key));
        let current = current.map(|(key, version)| (*key, *version)).collect();
        Self { incarnation: asked.epoch.filter(|_| !versions.is_empty()), versions, current }
    }
}

impl Validator for ByRowVersion {
    /// When the server was started.
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
