//! The charge of a metered answer.

use bytes::Bytes;
use http::header::{CONTENT_ENCODING, CONTENT_LENGTH};
use http::{HeaderMap, Response};
use http_body::Body;

use super::body::{MeteredBody, State};
use super::format::Format;
use super::meter::Meter;
use crate::http::{BodyError, Charge, OnInterrupt, Rejection};
use crate::model::Amount;

/// Metered answers of language models (feature `llm`).
impl Charge {
    /// Holds what the answer to a request may cost at first, before the model is asked. From here on
    /// the prompt costs.
    ///
    /// For a stream that is the prompt and 256 tokens of output, because [`meter`](Self::meter) holds
    /// more while it comes. For a whole answer it is the prompt and the most that the model may write,
    /// because nobody can stop it halfway: the limit of the request, else that of the meter
    /// ([`Meter::max_output`]). So it is for a stream with [hidden reasoning](Meter::hidden_reasoning).
    ///
    /// What is held whole is charged whole where the client leaves, or the upstream breaks off, before
    /// the cost is known: the model may have written all of it. Call
    /// [`on_interrupt`](Self::on_interrupt) after this for another rule.
    ///
    /// Where the model is not asked after all, set the cost to zero.
    ///
    /// # Errors
    ///
    /// As for [`hold`](Self::hold).
    pub async fn hold_for(&self, meter: &Meter) -> Result<(), Rejection> {
        self.hold(meter.first_hold()).await?;
        self.set_cost(meter.cost());
        if meter.is_held_whole() {
            self.on_interrupt(OnInterrupt::WholeHold);
        }
        Ok(())
    }

    /// Meters an upstream's answer, and returns it as the response to the client.
    ///
    /// - An event stream is passed on event by event. What an event costs is held before the event is
    ///   passed on.
    /// - Where no more can be held, the stream is cut: it ends with an error event of the format, and
    ///   the upstream is hung up on. Charged is what was passed on, and the one event that was not.
    /// - An answer that is no event stream is kept until its end, charged by its usage, and passed on
    ///   whole. What it costs beyond what is held is debt.
    /// - An answer with another status than 2xx is passed on as it is, and costs nothing.
    ///
    /// The charge has the cost of the meter in place of all that was added before. At the end of the
    /// answer it settles by its usage. On a disconnect or an error of the upstream it settles by what
    /// was passed on, or by the [whole hold](Self::hold_for): see [`http::charge`](crate::http::charge).
    ///
    /// The upstream must not encode its answer, so send it no `Accept-Encoding`. An encoded answer
    /// fails.
    ///
    /// ```
    /// use agentkey::llm::{FourBytes, Format, Meter, Prompt};
    /// use agentkey::model::TokenPrice;
    /// use agentkey::{Amount, Charge, Rejection};
    /// # use bytes::Bytes;
    /// use http::Response;
    ///
    /// const PRICE: TokenPrice = TokenPrice::new(Amount::units(3), Amount::units(15));
    ///
    /// # async fn chat<B>(charge: Charge, body: Bytes, ask: impl AsyncFnOnce(Bytes) -> Response<B>) -> Result<Response<agentkey::llm::MeteredBody<B>>, Box<dyn std::error::Error>>
    /// # where B: http_body::Body<Data = Bytes>, B::Error: Into<agentkey::http::BodyError> {
    /// let format = Format::ChatCompletions;
    /// let meter = Meter::new(PRICE).prompt(Prompt::read(&body, &FourBytes)?);
    /// let request = meter.to_upstream(format, &body)?;
    /// charge.hold_for(&meter).await?; // refused here: 402 before the model is asked
    /// let answer: Response<B> = ask(request).await;
    /// Ok(charge.meter(answer, format, meter))
    /// # }
    /// ```
    pub fn meter<B>(
        self,
        answer: Response<B>,
        format: Format,
        meter: Meter,
    ) -> Response<MeteredBody<B>>
    where
        B: Body<Data = Bytes>,
        B::Error: Into<BodyError>,
    {
        let (mut head, body) = answer.into_parts();
        let state = if head.status.is_success() { state_of(&head.headers) } else { State::Plain };
        if state == State::Plain {
            self.set_cost(Amount::ZERO);
            self.on_interrupt(OnInterrupt::Added);
        } else {
            self.set_cost(meter.cost());
            head.headers.remove(CONTENT_LENGTH); // a stream may be cut
        }
        Response::from_parts(head, MeteredBody::new(body, self, meter, format, state))
    }
}

fn state_of(headers: &HeaderMap) -> State {
    let mut encodings = headers.get_all(CONTENT_ENCODING).iter();
    match encodings.find(|encoding| *encoding != "identity") {
        None => State::Metered,
        Some(encoding) => {
            tracing::error!(
                ?encoding,
                "agentkey cannot meter an encoded answer; send the upstream no Accept-Encoding"
            );
            State::Unreadable
        }
    }
}
