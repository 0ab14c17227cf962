//! The span of a request: what it says, what it covers, and when it ends.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::fmt;
use std::sync::{Arc, Mutex};

use agentkey::{Amount, Charge, KeyContext, NewKey, Rejection, RequireScope};
use axum::Router;
use axum::body::Body;
use axum::routing::get;
use futures_util::stream;
use http_body_util::BodyExt;
use tower::ServiceExt;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::subscriber::DefaultGuard;
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::registry::{LookupSpan, Registry};

use super::refusals::{answer, ask, ask_with};
use super::support::{Fault, Faults, World, is_settle};

type Fields = BTreeMap<String, String>;

/// The spans of the crate that were closed, and the messages of events in them, each with the name of its span.
#[derive(Clone, Debug, Default)]
struct Spans(Arc<Mutex<(Vec<Fields>, Vec<String>)>>);

struct Visitor<'a>(&'a mut Fields);

impl Visit for Visitor<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.0.insert(field.name().to_owned(), format!("{value:?}"));
    }
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Spans {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let mut fields = Fields::new();
        attributes.record(&mut Visitor(&mut fields));
        context.span(id).unwrap().extensions_mut().insert(fields);
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, S>) {
        let span = context.span(id).unwrap();
        values.record(&mut Visitor(span.extensions_mut().get_mut().unwrap()));
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let mut fields = Fields::new();
        event.record(&mut Visitor(&mut fields));
        let span = context.lookup_current().map_or("none", |span| span.name());
        let message = fields.remove("message").unwrap_or_default();
        self.0.lock().unwrap().1.push(format!("{span}: {message}"));
    }

    fn on_close(&self, id: Id, context: Context<'_, S>) {
        let span = context.span(&id).unwrap();
        if span.metadata().target() == "agentkey::request" {
            assert_eq!((span.name(), *span.metadata().level()), ("agentkey.request", Level::DEBUG));
            let fields = span.extensions().get::<Fields>().unwrap().clone();
            self.0.lock().unwrap().0.push(fields);
        }
    }
}

impl Spans {
    /// Takes the spans of this thread from now on.
    fn take() -> (Self, DefaultGuard) {
        let spans = Self::default();
        let guard = tracing::subscriber::set_default(Registry::default().with(spans.clone()));
        (spans, guard)
    }

    /// The one span that was closed since the last call: the fields after `agentkey.` with their values.
    fn one(&self) -> String {
        let spans = std::mem::take(&mut self.0.lock().unwrap().0);
        let [span] = &spans[..] else { panic!("{spans:?}") };
        let fields = span.iter().map(|(name, value)| {
            format!("{}={value}", name.strip_prefix("agentkey.").expect("a field of ours"))
        });
        fields.collect::<Vec<_>>().join(" ")
    }

    fn is_open(&self) -> bool {
        self.0.lock().unwrap().0.is_empty()
    }

    /// The span in which this was said.
    fn around(&self, message: &str) -> String {
        let events = self.0.lock().unwrap().1.clone();
        let found = events.iter().find_map(|event| event.strip_suffix(&format!(": {message}")));
        found.unwrap_or_else(|| panic!("nobody said {message}: {events:?}")).to_owned()
    }
}

async fn metered(charge: Charge) -> Result<(), Rejection> {
    charge.hold(Amount::cents(10)).await?;
    let receipt = charge.pay(Amount::cents(5)).await?;
    charge.refund(&receipt, Amount::cents(1)).await?;
    charge.add(Amount::cents(3));
    tracing::info!("in the handler");
    Ok(())
}

async fn streamed(charge: Charge) -> Body {
    let pieces = (0..2).map(move |n| {
        charge.add(Amount::cents(2));
        tracing::info!("piece {n}");
        Ok::<_, Infallible>("piece")
    });
    Body::from_stream(stream::iter(pieces))
}

fn routes() -> Router {
    let dear = async |charge: Charge| charge.hold(Amount::units(2)).await;
    Router::new()
        .route("/metered", get(metered))
        .route("/streamed", get(streamed))
        .route("/free", get(async |_: KeyContext| ""))
        .route("/open", get(async || ""))
        .route("/dear", get(dear))
        .route("/scoped", get(async || "").layer(RequireScope::one("docs.write").unwrap()))
}

#[tokio::test]
async fn it_has_key_account_decision_and_amount() {
    let (spans, _taking) = Spans::take();
    let world = World::new().await;
    let (id, token) = world.key().await;
    let app = routes().layer(world.layer());
    assert_eq!(answer(&app, ask_with("/metered", &token)).await.status, 200);
    let all = format!("account=\"acme\" amount_micros=70000 decision=\"accepted\" key_id={id}");
    assert_eq!(spans.one(), all);
    assert_eq!(spans.around("in the handler"), "agentkey.request");
    assert_eq!(answer(&app, ask_with("/free", &token)).await.status, 200);
    assert_eq!(spans.one(), all.replace("70000", "0"));
}

#[tokio::test]
async fn it_covers_the_body_up_to_the_settle() {
    let (spans, _taking) = Spans::take();
    let world = World::new().await;
    let (_, token) = world.key().await;
    let app = routes().layer(world.layer());
    let request = ask_with("/streamed", &token).body(Body::empty()).unwrap();
    let mut body = app.clone().oneshot(request).await.unwrap().into_body();
    assert!(body.frame().await.unwrap().is_ok());
    assert!(spans.is_open());
    while let Some(frame) = body.frame().await {
        frame.unwrap();
    }
    drop(body);
    assert!(spans.one().contains("amount_micros=40000 decision=\"accepted\""));
    assert_eq!([0, 1].map(|n| spans.around(&format!("piece {n}"))), ["agentkey.request"; 2]);

    // A client that leaves is charged what was added until then.
    let request = ask_with("/streamed", &token).body(Body::empty()).unwrap();
    let mut body = app.oneshot(request).await.unwrap().into_body();
    assert!(body.frame().await.unwrap().is_ok());
    drop(body);
    assert!(spans.one().contains("amount_micros=20000 decision=\"accepted\""));
}

#[tokio::test]
async fn it_has_the_code_of_a_refusal_also_of_one_behind_the_layer() {
    let (spans, _taking) = Spans::take();
    let world = World::new().await;
    let (id, token) = world.key().await;
    let (gone, revoked) = world.create(NewKey::new("acme".parse().unwrap())).await;
    world.keys.revoke(gone, None).await.unwrap();
    let own = world.layer().on_refusal(|_, _| http::Response::new("mine".into()));
    for layer in [world.layer(), own] {
        let app = routes().layer(layer);
        for (request, wanted) in [
            (ask("/free"), "decision=\"missing_key\"".to_owned()),
            (ask("/free").header("x-api-key", "ak_nonsense"), "decision=\"invalid_key\"".into()),
            (
                ask_with("/free", &revoked),
                format!("account=\"acme\" decision=\"revoked_key\" key_id={gone}"),
            ),
            (
                ask_with("/dear", &token),
                format!(
                    "account=\"acme\" amount_micros=0 decision=\"budget_exceeded\" key_id={id}"
                ),
            ),
        ] {
            drop(answer(&app, request).await);
            assert_eq!(spans.one(), wanted);
            assert_eq!(spans.around("agentkey refused a request"), "agentkey.request");
        }
    }
    let (_, narrow) = world.create(NewKey::new("acme".parse().unwrap()).scopes(none())).await;
    drop(answer(&routes().layer(world.layer()), ask_with("/scoped", &narrow)).await);
    assert!(spans.one().contains("decision=\"insufficient_scope\""));
}

fn none() -> agentkey::ScopeSet {
    agentkey::ScopeSet::parse([] as [&str; 0]).unwrap()
}

#[tokio::test]
async fn it_says_when_a_request_was_let_through_without_a_key() {
    let (spans, _taking) = Spans::take();
    let world = World::new().await;
    let (_, token) = world.key().await;
    let app = routes().layer(world.layer().optional(true).fail_open(true));
    assert_eq!(answer(&app, ask("/open")).await.status, 200);
    assert_eq!(spans.one(), "decision=\"anonymous\"");
    assert_eq!(answer(&app, ask("/free")).await.status, 401);
    assert_eq!(spans.one(), "decision=\"missing_key\"");
    world.spy.set(Faults::finds(Fault::Down));
    assert_eq!(answer(&app, ask_with("/open", &token)).await.status, 200);
    assert_eq!(spans.one(), "decision=\"fail_open\"");
}

#[tokio::test]
async fn it_has_no_amount_where_the_settle_failed() {
    let (spans, _taking) = Spans::take();
    let world = World::new().await;
    let (id, token) = world.key().await;
    world.spy.set(Faults::posts(Fault::Broken).only(is_settle));
    let app = routes().layer(world.layer());
    assert_eq!(answer(&app, ask_with("/metered", &token)).await.status, 503);
    assert_eq!(spans.one(), format!("account=\"acme\" decision=\"unavailable\" key_id={id}"));
}

#[tokio::test]
async fn two_layers_make_one_and_the_span_around_them_is_set_too() {
    let (spans, _taking) = Spans::take();
    let world = World::new().await;
    let (id, token) = world.key().await;
    let app = routes().layer(world.layer()).layer(world.layer());
    let outer = tracing::info_span!("request", agentkey.key_id = tracing::field::Empty);
    let seen =
        tracing::Instrument::instrument(answer(&app, ask_with("/free", &token)), outer.clone());
    assert_eq!(seen.await.status, 200);
    assert!(spans.one().ends_with(&format!("key_id={id}")));
    let fields = outer.with_subscriber(|(span, subscriber)| {
        let registry = subscriber.downcast_ref::<Registry>().unwrap();
        registry.span(span).unwrap().extensions().get::<Fields>().cloned().unwrap()
    });
    assert_eq!(fields.unwrap()["agentkey.key_id"], id.to_string());
}
