//! Whether a service could serve requests from the database now.

use agentkey::AgentKeys;

use super::check::Check;

pub(super) async fn check(keys: &AgentKeys, checks: &mut Vec<Check>) {
    let health = keys.health().await;
    checks.push(match (health.can_read, health.can_write) {
        (true, true) => {
            Check::ok("service", "the store answers look-ups and takes postings".to_owned())
        }
        (true, false) => Check::failed(
            "service",
            "the store takes no postings: requests that cost money would get 503".to_owned(),
            "the log line above says why: look for a transaction that keeps the lock, a full disk, \
             or a server that became read-only",
        ),
        (false, _) => Check::failed(
            "service",
            "the store answers no look-up: requests would get 503".to_owned(),
            "the log line above says why: look for locks, a full disk, or too many connections",
        ),
    });
    // That reads the entries of every open window.
    let found = "compared with the ledger by `agentkey reconcile`, and not here";
    checks.push(Check::info("balances", found.to_owned()));
}
