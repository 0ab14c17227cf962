//! The guard on a response: settles its charge exactly once, however the response ends.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use super::state::ChargeState;
use crate::engine::batch::Settling;

/// Settles the charge of a response at its end.
///
/// It is created before the inner service is called, and moves from the future to the body. If it
/// is dropped before the end, the request counts as cut short, and is still settled.
#[derive(Debug)]
pub(crate) struct Guard {
    charge: Arc<ChargeState>,
    /// Settles that were sent before the end.
    early: Vec<Settling>,
    state: GuardState,
}

#[derive(Debug)]
enum GuardState {
    Open,
    Settling(Settling),
    Settled,
}

/// The error of a charge that could not be posted. The log has the details.
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

    /// Returns whether a handle is left that can add to the charge.
    pub(crate) fn has_handles(&self) -> bool {
        self.charge.has_handles()
    }

    /// Settles as soon as no handle is left, while the body is pending. The task is woken for that.
    pub(crate) fn watch_handles(&mut self, cx: &Context<'_>) {
        if matches!(self.state, GuardState::Open) && !self.charge.watch_handles(cx) {
            self.early.extend(self.charge.settle_early());
        }
    }

    /// Records that the request was cut short.
    pub(crate) fn interrupt(&self) {
        if matches!(self.state, GuardState::Open) {
            self.charge.interrupt();
        }
    }

    /// Sends the settle, once.
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
        let Ok(Ok(posted)) = ready!(Pin::new(settling).poll(cx)) else {
            return Poll::Ready(Err(SettleFailed));
        };
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
