//! The guard on a response: settles its charge exactly once, however the response ends.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use super::state::ChargeState;
use crate::engine::batch::Settling;

/// Born before the inner service is called, it rides on the future and then on the body. Dropped before the end, it
/// takes the request for cut short, and settles all the same.
#[derive(Debug)]
pub(crate) struct Guard {
    charge: Arc<ChargeState>,
    /// What was settled before the end.
    early: Vec<Settling>,
    state: GuardState,
}

#[derive(Debug)]
enum GuardState {
    Open,
    Settling(Settling),
    Settled,
}

/// A charge could not be posted; it is in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the charge of this response could not be posted")]
pub(crate) struct SettleFailed;

impl Guard {
    pub(crate) fn new(charge: Arc<ChargeState>) -> Self {
        Self { charge, early: Vec::new(), state: GuardState::Open }
    }

    pub(crate) fn charge_state(&self) -> &ChargeState {
        &self.charge
    }

    /// Whether a handle is left that can add to the charge.
    pub(crate) fn has_handles(&self) -> bool {
        self.charge.has_handles()
    }

    /// The body waits: settles what is owed once no handle is left that can add to it, and not with the next frame only.
    pub(crate) fn watch_handles(&mut self, cx: &Context<'_>) {
        if matches!(self.state, GuardState::Open) && !self.charge.watch_handles(cx) {
            self.early.extend(self.charge.settle_early());
        }
    }

    /// The request was cut short.
    pub(crate) fn interrupt(&self) {
        if matches!(self.state, GuardState::Open) {
            self.charge.interrupt();
        }
    }

    /// Sends what is owed to the ledger, once.
    pub(crate) fn end(&mut self) {
        if matches!(self.state, GuardState::Open) {
            self.state = self.charge.end().map_or(GuardState::Settled, GuardState::Settling);
        }
    }

    /// Ends the charge and waits until it is committed.
    pub(crate) fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), SettleFailed>> {
        self.end();
        while let Some(settling) = self.early.first_mut() {
            ready!(Self::poll_settling(&self.charge, settling, cx))?;
            self.early.remove(0);
        }
        let GuardState::Settling(settling) = &mut self.state else { return Poll::Ready(Ok(())) };
        let settled = ready!(Self::poll_settling(&self.charge, settling, cx));
        self.state = GuardState::Settled;
        Poll::Ready(settled)
    }

    fn poll_settling(
        charge: &ChargeState,
        settling: &mut Settling,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), SettleFailed>> {
        let Ok(Ok(posted)) = ready!(Pin::new(settling).poll(cx)) else { return Poll::Ready(Err(SettleFailed)) };
        charge.settled(&posted);
        Poll::Ready(Ok(()))
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.interrupt();
        self.end();
    }
}
