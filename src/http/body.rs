//! The body of every response that passed a layer of this crate.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use http_body_util::Full;
use pin_project_lite::pin_project;

use crate::engine::rate_limits::InFlightPermit;
use crate::http::charge::guard::{Guard, SettleFailed, ShutDown};

/// The error of a response's body.
pub type BodyError = Box<dyn std::error::Error + Send + Sync>;

pin_project! {
    /// The body of a response that passed a layer of this crate: the inner service's, or a
    /// refusal's.
    ///
    /// If the inner body holds a [`Charge`](crate::Charge), its end waits until the charge is
    /// committed. Its length is hidden, because a server that knows the length would not wait for
    /// the end.
    pub struct ResponseBody<B> {
        #[pin]
        kind: BodyKind<B>,
        // Dropped at the end of the body, or with it.
        permit: Option<InFlightPermit>,
    }
}

pin_project! {
    #[project = KindProj]
    enum BodyKind<B> {
        Inner { #[pin] inner: B },
        Whole { #[pin] inner: Full<Bytes> },
        Unread,
        Charged { #[pin] inner: Charged<B> },
    }
}

impl<B> ResponseBody<B> {
    pub(crate) fn inner(inner: B) -> Self {
        Self::new(BodyKind::Inner { inner })
    }

    pub(crate) fn whole(bytes: Bytes) -> Self {
        Self::new(BodyKind::Whole { inner: Full::new(bytes) })
    }

    /// Returns an empty body of unknown length, for an answer to HEAD that must not say 0.
    pub(crate) fn unread() -> Self {
        Self::new(BodyKind::Unread)
    }

    pub(crate) fn charged(inner: B, guard: Guard) -> Self {
        let inner = Charged { inner: Some(inner), guard, last: None, state: BodyState::Streaming };
        Self::new(BodyKind::Charged { inner })
    }

    fn new(kind: BodyKind<B>) -> Self {
        Self { kind, permit: None }
    }

    /// Keeps the request in flight until the end of the body.
    pub(crate) fn with_permit(self, permit: Option<InFlightPermit>) -> Self {
        Self { permit, ..self }
    }
}

impl<B> fmt::Debug for ResponseBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match &self.kind {
            BodyKind::Inner { .. } => "inner",
            BodyKind::Whole { .. } => "whole",
            BodyKind::Unread => "unread",
            BodyKind::Charged { .. } => "charged",
        };
        f.debug_tuple("ResponseBody").field(&kind).finish()
    }
}

impl<B> Body for ResponseBody<B>
where
    B: Body<Data = Bytes>,
    B::Error: Into<BodyError>,
{
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.project();
        let polled = match this.kind.project() {
            KindProj::Inner { inner } => inner.poll_frame(cx).map_err(Into::into),
            KindProj::Whole { inner } => inner.poll_frame(cx).map_err(|never| match never {}),
            KindProj::Unread => Poll::Ready(None),
            KindProj::Charged { inner } => inner.poll_frame(cx),
        };
        if matches!(polled, Poll::Ready(None | Some(Err(_)))) {
            drop(this.permit.take());
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            BodyKind::Inner { inner } => inner.is_end_stream(),
            BodyKind::Whole { inner } => inner.is_end_stream(),
            BodyKind::Unread => true,
            BodyKind::Charged { inner } => matches!(inner.state, BodyState::Done),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            BodyKind::Inner { inner } => inner.size_hint(),
            BodyKind::Whole { inner } => inner.size_hint(),
            BodyKind::Unread | BodyKind::Charged { .. } => SizeHint::default(),
        }
    }
}

pin_project! {
    /// A body whose end waits for the charge. The guard settles however the body ends.
    struct Charged<B> {
        #[pin]
        inner: Option<B>,
        // Dropped after `inner`, so that the inner body's handles are gone when the guard settles.
        guard: Guard,
        // The frame after the settle: trailers, or an error.
        last: Option<Result<Frame<Bytes>, BodyError>>,
        state: BodyState,
    }

    impl<B> PinnedDrop for Charged<B> {
        fn drop(this: Pin<&mut Self>) {
            let mut this = this.project();
            let _entered = this.guard.span().entered();
            // If no handle is left, the work was done.
            if this.guard.has_handles() {
                this.guard.interrupt();
            }
            this.inner.set(None);
            this.guard.end();
        }
    }
}

#[derive(Clone, Copy)]
enum BodyState {
    Streaming,
    Settling,
    Done,
}

impl<B> Charged<B>
where
    B: Body<Data = Bytes>,
    B::Error: Into<BodyError>,
{
    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let mut this = self.project();
        let _entered = this.guard.span().entered();
        if let (BodyState::Streaming, Some(inner)) = (*this.state, this.inner.as_mut().as_pin_mut())
        {
            // A stream that is always ready is cut off too.
            let polled = match this.guard.is_cut_off() {
                true => Poll::Pending,
                false => inner.poll_frame(cx),
            };
            let frame = match polled {
                Poll::Ready(frame) => frame.map(|frame| frame.map_err(Into::into)),
                Poll::Pending if this.guard.watch_body(cx) => Some(Err(ShutDown.into())),
                Poll::Pending => return Poll::Pending,
            };
            match frame {
                Some(Ok(frame)) if frame.is_data() => {
                    if !this.guard.has_handles() {
                        this.guard.end();
                    }
                    return Poll::Ready(Some(Ok(frame)));
                }
                Some(Ok(trailers)) => *this.last = Some(Ok(trailers)),
                Some(Err(error)) => {
                    this.guard.interrupt();
                    *this.last = Some(Err(error));
                }
                None => {}
            }
            this.inner.set(None);
            *this.state = BodyState::Settling;
        }
        if let BodyState::Settling = *this.state {
            let settled = ready!(this.guard.poll_end(cx));
            *this.state = BodyState::Done;
            if let Err(SettleFailed) = settled {
                return Poll::Ready(Some(Err(SettleFailed.into())));
            }
        }
        Poll::Ready(this.last.take())
    }
}
