//! The guard on a response: settles its charge exactly once, however the response ends.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use super::Tab;
use crate::lanes::Settling;

/// Born before the inner service is called, it rides on the future and then on the body. Dropped before the end, it
/// takes the request for cut short, and settles all the same.
#[derive(Debug)]
pub(crate) struct Guard {
    tab: Arc<Tab>,
    state: State,
}

#[derive(Debug)]
enum State {
    Open,
    Settling(Settling),
    Settled,
}

/// A charge could not be posted; it is in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the charge of this response could not be posted")]
pub(crate) struct Unsettled;

impl Guard {
    pub(crate) fn new(tab: Arc<Tab>) -> Self {
        Self { tab, state: State::Open }
    }

    pub(crate) fn tab(&self) -> &Tab {
        &self.tab
    }

    /// Whether a handle is left that can add to the charge.
    pub(crate) fn has_handles(&self) -> bool {
        self.tab.has_handles()
    }

    /// The body waits: ends the charge once no handle is left that can add to it, and not with the next frame only.
    pub(crate) fn watch_handles(&mut self, cx: &Context<'_>) {
        if matches!(self.state, State::Open) && !self.tab.watch_handles(cx) {
            self.end();
        }
    }

    /// Nobody waits for the response any more. Where no handle is left, the work had been done.
    pub(crate) fn abandon(&self) {
        if self.has_handles() {
            self.interrupt();
        }
    }

    /// The request was cut short.
    pub(crate) fn interrupt(&self) {
        if matches!(self.state, State::Open) {
            self.tab.interrupt();
        }
    }

    /// Sends what is owed to the ledger, once.
    pub(crate) fn end(&mut self) {
        if matches!(self.state, State::Open) {
            self.state = self.tab.end().map_or(State::Settled, State::Settling);
        }
    }

    /// Ends the charge and waits until it is committed.
    pub(crate) fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Unsettled>> {
        self.end();
        let State::Settling(settling) = &mut self.state else { return Poll::Ready(Ok(())) };
        let answer = ready!(Pin::new(settling).poll(cx));
        self.state = State::Settled;
        Poll::Ready(match answer {
            Ok(Ok(posted)) => {
                self.tab.settled(&posted);
                Ok(())
            }
            Ok(Err(_)) | Err(_) => Err(Unsettled),
        })
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.abandon();
        self.end();
    }
}
