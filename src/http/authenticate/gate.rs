//! What a request has to pass behind its credential: the state of its key, its address, and its rate.
//!
//! In this order, so that a refused request uses nothing of what comes after. Scope and budget follow, in
//! the layers and extractors of the route.

use std::net::IpAddr;
use std::sync::Arc;

use http::Request;
use zeroize::Zeroizing;

use super::options::AuthenticateOptions;
use crate::engine::agent_keys::Inner;
use crate::engine::rate_limits::InFlightPermit;
use crate::http::client::{Client, client_address};
use crate::http::limits::{Admitted, Counted, Limits, Refused, check_address};
use crate::identity::{Identified, Verifier};
use crate::ledger::Taken;
use crate::model::{KeyId, Refusal, TokenHash};
use crate::store::{BoxFuture, Found};

/// What is looked up.
pub(super) enum Lookup {
    Of(TokenHash),
    /// The token of a session, once the signing keys are read that verify it.
    After(Zeroizing<String>),
    /// The key of the subject of a credential, once it is verified.
    Issued(Zeroizing<String>, Arc<dyn Verifier>),
}

/// The key of a request, and what was taken from rates while it was looked up.
pub(super) type LookupFuture =
    BoxFuture<'static, Result<(Option<Identified>, Option<TakenAhead>), Refusal>>;

/// What was taken from rates that all processes share, before the key was known to be valid.
pub(super) struct TakenAhead {
    limits: Limits,
    permit: Option<InFlightPermit>,
    taken: Taken,
}

/// What the gate says to a request whose key was found.
pub(super) enum Gate {
    Open(Admitted),
    /// The rates are to be asked, which all processes share.
    Ask(Limits, Option<InFlightPermit>),
}

/// Marks a request that was counted for the limits of a key.
#[derive(Clone)]
struct CountedRequest {
    keys: Arc<Inner>,
    key: KeyId,
    counted: Counted,
}

impl AuthenticateOptions {
    /// Looks up the key of a request.
    ///
    /// Where all processes share rates, and the key is cached as one that will pass, the store takes
    /// from its rates in the same round trip.
    pub(super) fn look_up<B>(&self, lookup: Lookup, request: &Request<B>) -> LookupFuture {
        let (keys, verifiers) = (self.keys.clone(), self.verifiers.clone());
        let unknown_keys = self
            .unknown_keys
            .clone()
            .map(|limit| (limit, self.address(request).map_or(Client::Unknown, Client::new)));
        let ahead = match &lookup {
            Lookup::Of(hash) => self.foresee(hash, request),
            Lookup::After(_) | Lookup::Issued(..) => None,
        };
        Box::pin(async move {
            let hash = match lookup {
                Lookup::Of(hash) => hash,
                Lookup::After(token) => keys.verify_session(&token).await?,
                Lookup::Issued(credential, verifier) => {
                    if let Some((limit, client)) = &unknown_keys {
                        limit.count(*client, &keys)?;
                    }
                    let identified = verifiers.identify(&keys, &*verifier, &credential).await;
                    if let Some((limit, client)) = &unknown_keys
                        && !matches!(identified, Ok(None) | Err(Refusal::InvalidKey))
                    {
                        limit.take_back(*client);
                    }
                    return Ok((identified?, None));
                }
            };
            if let Some((limit, client)) = &unknown_keys {
                limit.count(*client, &keys)?;
            }
            let rates = ahead.as_ref().map(|(limits, _)| limits.rates());
            let found = keys.batches.find_and_take(hash, rates).await;
            if let Some((limit, client)) = &unknown_keys
                && !matches!(found, Ok((None, _)))
            {
                limit.take_back(*client);
            }
            let (found, taken) = found?;
            let ahead = ahead.zip(taken);
            let found = found.map(Identified::by_token);
            Ok((found, ahead.map(|((limits, permit), taken)| TakenAhead { limits, permit, taken })))
        })
    }

    /// Returns what a request will be limited by, if its key is cached, and passes as it is cached.
    fn foresee<B>(
        &self,
        hash: &TokenHash,
        request: &Request<B>,
    ) -> Option<(Limits, Option<InFlightPermit>)> {
        if !self.keys.rate_limits.is_shared {
            return None;
        }
        let found = self.keys.batches.peek(hash)?;
        found.lineage.check_active().ok()?;
        self.check_address(&found, request).ok()?;
        let limits = self.limits(&found, request)?;
        let permit = limits.enter(&self.keys).ok()?;
        (!limits.rates().is_empty()).then_some((limits, permit))
    }

    /// Decides about a request whose key was found.
    pub(super) fn gate<B>(
        &self,
        found: &Found,
        ahead: Option<TakenAhead>,
        request: &Request<B>,
    ) -> Result<Gate, Refused> {
        found.lineage.check_active()?;
        self.check_address(found, request)?;
        let Some(limits) = self.limits(found, request) else {
            return Ok(Gate::Open(Admitted::default()));
        };
        // The limits may have been changed since the key was cached. Then they are asked again.
        if let Some(TakenAhead { permit, taken, .. }) = ahead.filter(|ahead| ahead.limits == limits)
        {
            return limits.decide(&taken, permit, &self.keys).map(Gate::Open);
        }
        let permit = limits.enter(&self.keys)?;
        if self.keys.rate_limits.is_shared && !limits.rates().is_empty() {
            return Ok(Gate::Ask(limits, permit));
        }
        limits.decide(&limits.take_here(&self.keys), permit, &self.keys).map(Gate::Open)
    }

    fn check_address<B>(&self, found: &Found, request: &Request<B>) -> Result<(), Refusal> {
        if !found.lineage.has_allowed_cidrs() {
            return Ok(());
        }
        let address = self.address(request);
        if address.is_none() {
            self.warning.call_once(|| {
                match self.trusted_hops {
                    0 => tracing::error!(
                        "agentkey does not know the addresses of clients, so keys with `allowed_cidrs` are refused: serve \
                         the app with into_make_service_with_connect_info::<SocketAddr>(), put a `PeerAddress` into the \
                         extensions of each request, or say by `AgentKeyLayer::trusted_hops` how many proxies there are"
                    ),
                    hops => tracing::error!(
                        hops,
                        "agentkey refused a key with `allowed_cidrs`, because X-Forwarded-For has fewer addresses than \
                         `AgentKeyLayer::trusted_hops`: let each proxy append one, and let no request pass them by"
                    ),
                }
            });
        }
        check_address(&found.lineage, address)
    }

    fn address<B>(&self, request: &Request<B>) -> Option<IpAddr> {
        client_address(request.headers(), request.extensions(), self.trusted_hops)
    }

    /// Returns the limits that a request counts for at this layer.
    fn limits<B>(&self, found: &Found, request: &Request<B>) -> Option<Limits> {
        Limits::of(&found.lineage, self.rate_limit, self.counted(found, request))
    }

    /// Returns what outer layers have counted this request for with this key.
    fn counted<'a, B>(&self, found: &Found, request: &'a Request<B>) -> Option<&'a Counted> {
        let outer = request.extensions().get::<CountedRequest>().filter(|outer| {
            outer.key == found.lineage.id() && Arc::ptr_eq(&outer.keys, &self.keys)
        });
        outer.map(|outer| &outer.counted)
    }

    /// Tells the layers inside that a request is counted, if there is a limit that it counts for.
    pub(super) fn mark_counted<B>(&self, found: &Found, request: &mut Request<B>) {
        if Limits::bind(&found.lineage, self.rate_limit) {
            let counted = self.counted(found, request).cloned().unwrap_or_default();
            let counted = counted.and(self.rate_limit);
            let (keys, key) = (self.keys.clone(), found.lineage.id());
            request.extensions_mut().insert(CountedRequest { keys, key, counted });
        }
    }
}
