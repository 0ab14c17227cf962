//! The guard on a response: settles its charge exactly once, however the response ends.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use super::state::ChargeState;
use crate::engine::batch::Settling;
use crate::http::request_span::RequestSpan;

/// Settles the charge of a response at its end.
///
/// It is created before the inner service is called, and moves from the future to the body. If it
/// is dropped before the end, the request counts as cut short, and is still settled.
#[derive(Debug)]
pub(crate) struct Guard {
    charge: Arc<ChargeState>,
    /// Whether the guard of an outer layer settles.
    is_joined: bool,
    /// Settles that were sent before the end.
    early: Vec<Settling>,
    state: GuardState,
    // The last field: the span ends after the settle.
    span: RequestSpan,
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

/// The error at the end of a body that shutdown has cut off.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the service was shut down before the end of this response")]
pub(crate) struct ShutDown;

impl Guard {
    pub(crate) fn new(charge: Arc<ChargeState>, span: RequestSpan) -> Self {
        Self { charge, is_joined: false, early: Vec::new(), state: GuardState::Open, span }
    }

    /// Returns the guard of an inner layer, on a charge that an outer layer settles. It sees
    /// interruptions between the two.
    pub(crate) fn joined(charge: Arc<ChargeState>) -> Self {
        let span = RequestSpan::inner();
        Self { charge, is_joined: true, early: Vec::new(), state: GuardState::Open, span }
    }

    pub(crate) fn is_joined(&self) -> bool {
        self.is_joined
    }

    pub(crate) fn charge_state(&self) -> &Arc<ChargeState> {
        &self.charge
    }

    pub(crate) fn span(&self) -> &RequestSpan {
        &self.span
    }

    pub(crate) fn span_mut(&mut self) -> &mut RequestSpan {
        &mut self.span
    }

    /// Returns whether a handle is left that can add to the charge.
    pub(crate) fn has_handles(&self) -> bool {
        self.charge.has_handles()
    }

    /// Returns whether shutdown has cut the charge off before its end.
    pub(crate) fn is_cut_off(&self) -> bool {
        matches!(self.state, GuardState::Open) && self.charge.is_cut_off()
    }

    /// Returns whether the charge was cut off, while the handler is pending. The task is woken for
    /// that.
    pub(crate) fn watch_handler(&self, cx: &Context<'_>) -> bool {
        !self.is_joined && self.charge.watch(cx, false)
    }

    /// Settles as soon as no handle is left, while the body is pending. Returns whether the charge
    /// was cut off. The task is woken for both.
    pub(crate) fn watch_body(&mut self, cx: &Context<'_>) -> bool {
        if matches!(self.state, GuardState::Open) {
            let cut_off = self.charge.watch(cx, true);
            if !cut_off && !self.charge.has_handles() {
                self.early.extend(self.charge.settle_early());
            }
            return cut_off;
        }
        false
    }

    /// Records that the request was cut short.
    pub(crate) fn interrupt(&self) {
        if matches!(self.state, GuardState::Open) {
            self.charge.interrupt();
        }
    }

    /// Sends the settle, once.
    pub(crate) fn end(&mut self) {
        if self.is_joined {
            self.state = GuardState::Settled;
        } else if matches!(self.state, GuardState::Open) {
            self.early.extend(self.charge.take_cut_off_settle());
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
            charge.not_settled();
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
        if !self.span.is_disabled()
            && let Some(charged) = self.charge.charged()
        {
            self.span.charged(charged);
        }
    }
}
