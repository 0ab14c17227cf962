//! Renewals of the holds of a charge, and of its claim.

use std::sync::{Arc, Weak};
use std::time::Duration;

use super::state::ChargeState;
use crate::engine::renewals::{Renew, RenewalKey};
use crate::ledger::{Action, Outcome, Posted};
use crate::model::Refusal;
use crate::store::BoxFuture;

impl ChargeState {
    /// Plans a renewal in time for something with this time to live, unless an earlier one is
    /// planned.
    pub(super) fn renew_later(self: &Arc<Self>, ttl: Duration) {
        let mut totals = self.totals();
        let after = ttl / 3;
        if totals.renewal.is_some_and(|planned| planned.is_within(after)) {
            return;
        }
        if let Some(later) = totals.renewal.take() {
            self.keys.renewals.remove(later);
        }
        totals.renewal = Some(self.plan_renewal(after));
    }

    /// Renews the holds and the claim, and returns when to renew next.
    async fn renew_now(&self) -> Option<Duration> {
        let max_age = self.keys.options.max_hold_age;
        let (holds, claim, ttl) = {
            let totals = self.totals();
            (
                totals.live().map(|hold| hold.id).collect::<Vec<_>>(),
                totals.renewable_claim(max_age),
                totals.shortest_ttl().unwrap_or(self.keys.options.hold_ttl),
            )
        };
        if holds.is_empty() && claim.is_none() {
            return None;
        }
        let (mut claim, left) = claim.unzip();
        // A claim near its maximum age is renewed apart. The holds are younger, and live longer.
        if let Some(left) = left.flatten().filter(|left| *left < ttl) {
            let action =
                Action::Renew { holds: Vec::new(), ttl: left, max_age, claim: claim.take() };
            match self.post(action).await {
                Err(Refusal::Unavailable { retry_after }) => return Some(retry_after.min(ttl / 6)),
                _ if holds.is_empty() => return Some(ttl / 3),
                _ => {}
            }
        }
        let action = Action::Renew { holds: holds.clone(), ttl, max_age, claim };
        match self.post(action).await {
            Ok(Posted { outcome: Outcome::Renewed { over: expired, .. }, .. }) => {
                self.totals().mark_expired(&expired);
                Some(ttl / 3)
            }
            Ok(_) => None,
            Err(Refusal::Unavailable { retry_after }) => Some(retry_after.min(ttl / 6)),
            Err(Refusal::HoldExpired) => {
                self.totals().mark_expired(&holds);
                None
            }
            Err(refusal) => {
                let key = self.lineage().id();
                tracing::debug!(%refusal, %key, "agentkey could not renew the holds of a charge; they expire");
                None
            }
        }
    }

    fn plan_renewal(self: &Arc<Self>, after: Duration) -> RenewalKey {
        let charge: Weak<Self> = Arc::downgrade(self);
        self.keys.renewals.insert(charge, after)
    }

    fn renew_again(self: &Arc<Self>, after: Option<Duration>) {
        let mut totals = self.totals();
        if let Some(planned) = totals.renewal.take() {
            self.keys.renewals.remove(planned);
        }
        // A new hold may have a shorter life than the renewed ones, or may have come after all of
        // them expired.
        let soonest = totals.shortest_ttl().map(|ttl| ttl / 3);
        let after = after.filter(|_| soonest.is_some() || totals.claim.is_some());
        totals.renewal =
            after.into_iter().chain(soonest).min().map(|after| self.plan_renewal(after));
    }
}

impl Renew for ChargeState {
    fn renew(self: Arc<Self>) -> BoxFuture<'static, ()> {
        Box::pin(async move {
            let after = self.renew_now().await;
            self.renew_again(after);
        })
    }
}
