//! What a route asks of a key beyond being in force: scopes, and money.

mod budget;
mod scope;

pub use budget::{RequireBudget, RequireBudgetFuture, RequireBudgetService};
pub use scope::{RequireScope, RequireScopeFuture, RequireScopeService};
