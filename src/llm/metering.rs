//! The charge of a metered answer.

use bytes::Bytes;
use http::Response;
use http::header::{CONTENT_ENCODING, CONTENT_LENGTH};
use http_body::Body;

use super::body::{MeteredBody, STEP};
use super::format::Format;
use super::meter::Meter;
use crate::http::{BodyError, Charge, Rejection};
use crate::model::Amount;

/// Metered answers of language models (feature `llm`).
impl Charge {
    /// Holds what the answer to a request may cost at first, before the model is asked. From here on
    /// the prompt costs.
    ///
    /// For a stream that is the prompt and 256 tokens of output, because [`meter`](Self::meter) holds
    /// more while it comes. For a whole answer it is the prompt and the most that the request lets
    /// the model write, because nobody can stop it halfway.
    ///
    /// Where the model is not asked after all, set the cost to zero.
    ///
    /// # Errors
    ///
    /// As for [`hold`](Self::hold).
    pub async fn hold_for(&self, meter: &Meter) -> Result<(), Rejection> {
        let request = meter.request();
        let output = match (request.is_stream, request.max_output) {
            (true, max) => max.unwrap_or(STEP).min(STEP),
            (false, max) => max.unwrap_or(STEP),
        };
        let prompt = meter.cost();
        self.hold(prompt.saturating_add(meter.output_cost(output))).await?;
        self.set_cost(prompt);
        Ok(())
    }

    /// Meters an upstream's answer, and returns it as the response to the client.
    ///
    /// - An event stream is passed on event by event. What an event costs is held before the event is
    ///   passed on.
    /// - Where no more can be held, the stream is cut: it ends with an error event of the format, and
    ///   the upstream is hung up on. Charged is what was passed on, and the one event that was not.
    /// - An answer that is no event stream is kept until its end, charged by its usage, and passed on
    ///   whole, as debt if need be.
    /// - An answer with another status than 2xx is passed on as it is, and costs nothing.
    ///
    /// The charge has the cost of the meter in place of all that was added before. At the end of the
    /// answer it settles by its usage; on a disconnect or an error of the upstream, by what was
    /// passed on: see [`http::charge`](crate::http::charge).
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
    /// # async fn ask<B: http_body::Body<Data = Bytes>>(_: Bytes) -> Response<B> { unimplemented!() }
    /// # async fn chat<B>(charge: Charge, body: Bytes) -> Result<Response<agentkey::llm::MeteredBody<B>>, Box<dyn std::error::Error>>
    /// # where B: http_body::Body<Data = Bytes>, B::Error: Into<agentkey::http::BodyError> {
    /// let meter = Meter::new(PRICE).prompt(Prompt::read(&body, &FourBytes)?);
    /// charge.hold_for(&meter).await?; // refused here: 402 before the model is asked
    /// let answer: Response<B> = ask(body).await;
    /// Ok(charge.meter(answer, Format::ChatCompletions, meter))
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
        if !head.status.is_success() {
            self.set_cost(Amount::ZERO);
            return Response::from_parts(head, MeteredBody::plain(body, self, meter, format));
        }
        self.set_cost(meter.cost());
        head.headers.remove(CONTENT_LENGTH); // a stream may be cut
        let mut encodings = head.headers.get_all(CONTENT_ENCODING).iter();
        let body = match encodings.find(|encoding| *encoding != "identity") {
            None => MeteredBody::metered(body, self, meter, format),
            Some(encoding) => {
                tracing::error!(
                    ?encoding,
                    "agentkey cannot meter an encoded answer; send the upstream no Accept-Encoding"
                );
                MeteredBody::unreadable(body, self, meter, format)
            }
        };
        Response::from_parts(head, body)
    }
}
