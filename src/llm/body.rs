//! The body of a metered answer.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body, Frame};
use pin_project_lite::pin_project;

use super::error::ClientError;
use super::format::Format;
use super::meter::{Meter, MeterError};
use crate::http::{BodyError, Charge, OnInterrupt, Rejection};
use crate::model::{Amount, Refusal};

type Holding = Pin<Box<dyn Future<Output = Result<(), Rejection>> + Send>>;

pin_project! {
    /// The body of a response that [`Charge::meter`] meters.
    ///
    /// It passes on what it has counted and holds the money for. It keeps one event, and the frame
    /// that the upstream sent last; while it waits for money, it reads nothing.
    pub struct MeteredBody<B> {
        #[pin]
        inner: Option<B>,
        // `None` once nothing more is charged.
        charge: Option<Charge>,
        meter: Meter,
        format: Format,
        // What came and is not counted yet.
        frame: Bytes,
        // What is counted, and passed on when the money for it is held.
        counted: Option<Bytes>,
        holding: Option<Holding>,
        trailers: Option<Frame<Bytes>>,
        state: State,
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// The answer is metered.
    Metered,
    /// The answer says that the upstream failed. It is passed on as it is.
    Plain,
    /// The answer cannot be metered.
    Unreadable,
    /// The upstream's answer has ended.
    Ended,
    Done,
}

impl<B> MeteredBody<B> {
    pub(super) fn new(
        inner: B,
        charge: Charge,
        meter: Meter,
        format: Format,
        state: State,
    ) -> Self {
        Self {
            inner: Some(inner),
            charge: Some(charge),
            meter,
            format,
            frame: Bytes::new(),
            counted: None,
            holding: None,
            trailers: None,
            state,
        }
    }
}

impl<B> Body for MeteredBody<B>
where
    B: Body<Data = Bytes>,
    B::Error: Into<BodyError>,
{
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        loop {
            let mut this = self.as_mut().project();
            if let Some(holding) = this.holding {
                let held = ready!(holding.as_mut().poll(cx));
                *this.holding = None;
                if let Err(rejection) = held {
                    let error = refused(*this.format, rejection.refusal());
                    return Poll::Ready(self.cut(error.into_event()));
                }
            }
            if let Some(counted) = this.counted.take() {
                return Poll::Ready(Some(Ok(Frame::data(counted))));
            }
            match this.state {
                State::Done => return Poll::Ready(None),
                State::Unreadable => return Poll::Ready(self.fail()),
                State::Plain => {
                    let Some(inner) = this.inner.as_pin_mut() else { return Poll::Ready(None) };
                    return inner.poll_frame(cx).map_err(Into::into);
                }
                State::Ended => return Poll::Ready(self.end()),
                State::Metered => {}
            }
            if !this.frame.is_empty() {
                if let Some(passed) = self.as_mut().count() {
                    return Poll::Ready(Some(Ok(Frame::data(passed))));
                }
                continue;
            }
            let Some(inner) = this.inner.as_mut().as_pin_mut() else {
                *this.state = State::Ended;
                continue;
            };
            match ready!(inner.poll_frame(cx)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => *this.frame = data,
                    Err(trailers) => {
                        *this.trailers = Some(trailers);
                        self.as_mut().count_rest();
                    }
                },
                Some(Err(error)) => {
                    // What was passed on is charged, by estimate. The error interrupts the response.
                    *this.state = State::Done;
                    this.inner.set(None);
                    return Poll::Ready(Some(Err(error.into())));
                }
                None => self.as_mut().count_rest(),
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.state == State::Done && self.counted.is_none()
    }
}

impl<B> MeteredBody<B> {
    /// Counts the frame, and returns what of it the held money covers.
    ///
    /// An event that it does not cover is kept, and more is held for it.
    fn count(self: Pin<&mut Self>) -> Option<Bytes> {
        let this = self.project();
        let charge = this.charge.as_ref()?;
        let held = charge.held();
        let (all, mut covered) = (this.frame.clone(), 0);
        let mut counted = None;
        while !this.frame.is_empty() {
            let before = this.frame.len();
            let event = match this.meter.next_event(this.frame) {
                Ok(Some(event)) => event,
                Ok(None) => break,
                Err(error) => {
                    tracing::error!(%error, "agentkey cut off an answer; Meter::max_event sets the bound");
                    *this.frame = Bytes::new();
                    *this.state = State::Unreadable;
                    break;
                }
            };
            let is_covered = this.meter.cost() <= held;
            let is_in_frame = before.checked_sub(this.frame.len()) == Some(event.len());
            if is_covered && is_in_frame {
                covered += event.len();
                continue;
            }
            counted = Some(event);
            if !is_covered {
                *this.holding = Some(hold_more(charge, this.meter));
            }
            break;
        }
        set_cost(charge, this.meter);
        *this.counted = counted;
        Some(all.slice(..covered)).filter(|passed| !passed.is_empty())
    }

    /// Counts what the answer ended with.
    ///
    /// A whole answer is passed on whatever it costs: the work was done, and its cost is debt where
    /// the money is gone.
    fn count_rest(self: Pin<&mut Self>) {
        let mut this = self.project();
        this.inner.set(None);
        *this.state = State::Ended;
        *this.counted = this.meter.rest();
        if let Some(charge) = this.charge.as_ref() {
            set_cost(charge, this.meter);
            let is_event = this.counted.is_some() && this.meter.is_events();
            if is_event && this.meter.cost() > charge.held() {
                *this.holding = Some(hold_more(charge, this.meter));
            }
        }
    }

    /// Ends the answer. From here on, a told figure may lower the cost.
    fn end(self: Pin<&mut Self>) -> Option<Result<Frame<Bytes>, BodyError>> {
        let this = self.project();
        *this.state = State::Done;
        this.meter.end();
        if let Some(charge) = this.charge.take() {
            set_cost(&charge, this.meter);
        }
        this.trailers.take().map(Ok)
    }

    /// Ends a stream with an error event, and hangs up on the upstream.
    fn cut(self: Pin<&mut Self>, event: Bytes) -> Option<Result<Frame<Bytes>, BodyError>> {
        let mut this = self.project();
        *this.state = State::Done;
        this.inner.set(None);
        *this.counted = None;
        *this.frame = Bytes::new();
        if let Some(charge) = this.charge.take() {
            charge.on_interrupt(OnInterrupt::Added);
        }
        Some(Ok(Frame::data(event)))
    }

    /// Ends an answer that cannot be metered: a stream with an error event, another with an error.
    fn fail(mut self: Pin<&mut Self>) -> Option<Result<Frame<Bytes>, BodyError>> {
        let event = ClientError::unreadable(self.format).into_event();
        let is_stream = self.meter.is_events();
        let cut = self.as_mut().cut(event);
        if is_stream { cut } else { Some(Err(MeterError.into())) }
    }
}

/// Sets the cost so far. Once the answer has ended, that is what a client pays who leaves.
fn set_cost(charge: &Charge, meter: &Meter) {
    charge.set_cost(meter.cost());
    if meter.is_ended() {
        charge.on_interrupt(OnInterrupt::Added);
    }
}

fn refused(format: Format, refusal: &Refusal) -> ClientError {
    ClientError::refused(format, refusal, refusal.to_response().body())
}

fn hold_more(charge: &Charge, meter: &Meter) -> Holding {
    let short = meter.cost().saturating_sub(charge.held());
    Box::pin(hold(charge.clone(), short, meter.next_hold()))
}

/// Holds the shortfall, and more ahead where there is more: then what is left, and at last the
/// shortfall alone.
async fn hold(charge: Charge, short: Amount, ahead: Amount) -> Result<(), Rejection> {
    let Err(rejection) = charge.hold(short.saturating_add(ahead)).await else { return Ok(()) };
    let Refusal::BudgetExceeded(figures) = rejection.refusal() else { return Err(rejection) };
    if figures.remaining > short && charge.hold(figures.remaining).await.is_ok() {
        return Ok(());
    }
    charge.hold(short).await
}

impl<B> fmt::Debug for MeteredBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MeteredBody")
            .field("format", &self.format)
            .field("meter", &self.meter)
            .field("state", &self.state)
            .finish_non_exhaustive()
    }
}
