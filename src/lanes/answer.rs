//! The answer of a lane, still to come.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::time::{Sleep, sleep};

use super::UNAVAILABLE;
use crate::Refusal;

/// Waits for an answer. Dropped or not, what was sent arrives.
#[derive(Debug)]
pub(crate) struct Answer<T> {
    answer: oneshot::Receiver<Result<T, Refusal>>,
    /// A lane whose thread is blocked by its store, because a disk hangs, cannot say that it is: then it is waited for as
    /// long as this. Other lanes bound the wait themselves.
    bound: Option<Duration>,
    timer: Option<Pin<Box<Sleep>>>,
}

impl<T> Answer<T> {
    pub(super) fn new(answer: oneshot::Receiver<Result<T, Refusal>>, bound: Option<Duration>) -> Self {
        Self { answer, bound, timer: None }
    }
}

impl<T> Future for Answer<T> {
    type Output = Result<T, Refusal>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        if let Poll::Ready(answer) = Pin::new(&mut self.answer).poll(cx) {
            return Poll::Ready(answer.unwrap_or(Err(UNAVAILABLE)));
        }
        // A response may be polled where there is no runtime, and so no timer.
        let Some(bound) = self.bound.filter(|_| Handle::try_current().is_ok()) else { return Poll::Pending };
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep(bound)));
        timer.as_mut().poll(cx).map(|()| Err(UNAVAILABLE))
    }
}
