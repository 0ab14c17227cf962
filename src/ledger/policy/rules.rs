//! The rules of a change.

use crate::ledger::caller::CallerRules;
use crate::model::{Origin, Scope};

/// The maximum depth of a lineage that a store follows to the root, whatever [`Rules`] say.
pub const MAX_DEPTH: usize = 64;

/// The rules that every store applies to policy changes.
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub struct Rules {
    /// The maximum number of keys in a lineage.
    pub max_depth: usize,
    /// The scope that includes every other one.
    pub admin_scope: Option<Scope>,
    /// The caller, where the change is not that of the application's own code.
    pub caller: Option<CallerRules>,
    /// Who acts, and by which request. The event of the change says it.
    pub origin: Origin,
}

impl Default for Rules {
    fn default() -> Self {
        Self { max_depth: 8, admin_scope: None, caller: None, origin: Origin::new() }
    }
}
