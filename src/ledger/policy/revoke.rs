//! Revocation.

use serde_json::json;

use super::writes::{KeyRecord, KeyWrite};
use crate::ledger::checks::check_text;
use crate::ledger::events;
use crate::model::{ChangeError, EventKind, Lineage};

/// Revokes a key. A key that is revoked stays as it is, with its first reason.
pub(super) fn revoke(
    lineage: &Lineage,
    reason: Option<&str>,
    descendants: u64,
) -> Result<KeyWrite, ChangeError> {
    check_text("reason", reason.unwrap_or_default())?;
    let (mut key, at) = (lineage.key().clone(), lineage.at());
    if key.revoked_at.is_some() {
        return Ok(KeyWrite { key, at, record: None });
    }
    key.revoked_at = Some(at);
    key.revoked_reason = reason.map(str::to_owned);
    let kind = match key.is_session() {
        true => EventKind::SessionEnded,
        false => EventKind::KeyRevoked,
    };
    let detail = json!({"reason": reason, "descendants": descendants});
    let event = events::of_key(kind, &key, lineage.ancestors(), at, detail);
    let record = Some((KeyRecord::Revoke, event));
    Ok(KeyWrite { key, at, record })
}
