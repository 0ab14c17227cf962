//! The span of a request, and the decision about it.

use http::{Request, Response};
use tracing::Span;
use tracing::field::Empty;
use tracing::span::{Entered, EnteredSpan};

use crate::engine::metrics::{Decisions, names::decision};
use crate::http::context::{Anonymous, KeyContext};
use crate::model::{Amount, Refusal};
use crate::store::Found;

/// The span of a request, from the look-up to the settle, and the one decision that is counted.
///
/// A request that passes several layers has those of the outermost.
#[derive(Debug)]
pub(crate) struct RequestSpan {
    span: Span,
    /// `None` once the decision is counted.
    decisions: Option<Decisions>,
    /// The decision if nothing behind the layer refuses; `None` while the key is looked up.
    admitted: Option<&'static str>,
}

impl RequestSpan {
    pub(crate) fn new<B>(request: &Request<B>, decisions: &Decisions) -> Self {
        let extensions = request.extensions();
        if extensions.get::<KeyContext>().is_some() || extensions.get::<Anonymous>().is_some() {
            return Self::inner();
        }
        let span = tracing::debug_span!(
            target: "agentkey::request",
            "agentkey.request",
            agentkey.key_id = Empty,
            agentkey.account = Empty,
            agentkey.decision = Empty,
            agentkey.amount_micros = Empty,
        );
        Self { span, decisions: Some(decisions.clone()), admitted: None }
    }

    /// Returns the span of an inner layer, which has none.
    pub(crate) fn inner() -> Self {
        Self { span: Span::none(), decisions: None, admitted: None }
    }

    pub(crate) fn enter(&self) -> Entered<'_> {
        self.span.enter()
    }

    /// Enters the span, without borrowing it.
    pub(crate) fn entered(&self) -> EnteredSpan {
        self.span.clone().entered()
    }

    pub(crate) fn is_disabled(&self) -> bool {
        self.span.is_disabled()
    }

    /// Records the key of the token, in force or not.
    pub(crate) fn found(&self, found: &Found) {
        record_key(&self.span, found);
    }

    /// Records that the layer lets the request through: something behind it may still refuse.
    pub(crate) fn admit(&mut self, decision: &'static str) {
        self.admitted = Some(decision);
    }

    /// Records the decision that a response shows.
    pub(crate) fn answered<B>(&mut self, response: &Response<B>) {
        if self.decisions.is_some() {
            let refusal = response.extensions().get::<Refusal>();
            self.decide(refusal.map_or(self.admitted.unwrap_or(decision::ACCEPTED), Refusal::code));
        }
    }

    /// Records that the layer refuses.
    pub(crate) fn refuse(&mut self, refusal: &Refusal) {
        self.decide(refusal.code());
    }

    /// Records what the ledger has charged for the request.
    pub(crate) fn charged(&self, amount: Amount) {
        self.span.record("agentkey.amount_micros", amount.as_micros());
    }

    fn decide(&mut self, decision: &'static str) {
        if let Some(decisions) = self.decisions.take() {
            decisions.count(decision);
            self.span.record("agentkey.decision", decision);
        }
    }
}

impl Drop for RequestSpan {
    /// A request that was let through and had no response was still let through.
    fn drop(&mut self) {
        if let Some(admitted) = self.admitted {
            self.decide(admitted);
        }
    }
}

/// Sets the fields `agentkey.key_id` and `agentkey.account` of a span, if it has them.
pub(crate) fn record_key(span: &Span, found: &Found) {
    span.record("agentkey.key_id", found.lineage.id().get());
    span.record("agentkey.account", found.lineage.account_id().as_str());
}
