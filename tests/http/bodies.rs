//! Every shape a response can have: charged once, the right amount, and committed when the client sees its end.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};

use agentkey::http::{BodyError, OnInterrupt};
use agentkey::{Amount, Charge, Rejection};
use axum::Router;
use axum::body::Body;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use bytes::Bytes;
use futures_util::stream;
use http::{HeaderMap, Method, StatusCode};
use http_body::{Frame, SizeHint};
use http_body_util::{Empty, Full, StreamBody};
use pin_project_lite::pin_project;

use super::support::{Client, Fault, Faults, Ledger, Seen, Version, World, is_settle, serve};

pin_project! {
    /// A body that keeps its charge, adds a cent for each chunk, and otherwise is as the body in it.
    struct Metered<B> {
        #[pin]
        inner: B,
        charge: Charge,
    }
}

impl<B: http_body::Body<Data = Bytes>> http_body::Body for Metered<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let this = self.project();
        let frame = ready!(this.inner.poll_frame(cx));
        if let Some(Ok(frame)) = &frame
            && frame.is_data()
        {
            this.charge.add(Amount::cents(1));
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

fn chunks(count: usize) -> impl Iterator<Item = Result<Frame<Bytes>, BodyError>> {
    (0..count).map(|_| Ok(Frame::data(Bytes::from_static(b"chunk."))))
}

fn trailers() -> Frame<Bytes> {
    let mut trailers = HeaderMap::new();
    trailers.insert("x-end", "yes".parse().unwrap());
    Frame::trailers(trailers)
}

fn stream(
    frames: impl IntoIterator<Item = Result<Frame<Bytes>, BodyError>>,
) -> StreamBody<impl futures_util::Stream<Item = Result<Frame<Bytes>, BodyError>>> {
    StreamBody::new(stream::iter(frames.into_iter().collect::<Vec<_>>()))
}

/// Holds 10 cents and spends 3 of them at once; a metered body spends one more with each chunk.
async fn work(charge: &Charge) -> Result<(), Rejection> {
    charge.hold(Amount::cents(10)).await?;
    charge.add(Amount::cents(3));
    Ok(())
}

fn metered<B>(charge: Charge, inner: B) -> Response
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BodyError>,
{
    Response::new(Body::new(Metered { inner, charge }))
}

async fn with_status(status: StatusCode, mut response: Response) -> Response {
    *response.status_mut() = status;
    response
}

fn app(world: &World) -> Router {
    type Answer = Result<Response, Rejection>;
    let plain = get(async |charge: Charge| -> Answer {
        work(&charge).await?;
        Ok("hello".into_response())
    });
    let chunked = get(async |charge: Charge| -> Answer {
        work(&charge).await?;
        Ok(Response::new(Body::new(stream(chunks(3)))))
    });
    let nothing = get(async |charge: Charge| -> Answer {
        work(&charge).await?;
        Ok(().into_response())
    });
    let failing = get(async |charge: Charge| -> Answer {
        work(&charge).await?;
        Ok(StatusCode::INTERNAL_SERVER_ERROR.into_response())
    });
    let kept_length = get(async |charge: Charge| -> Answer {
        work(&charge).await?;
        Ok(metered(charge, Full::from("hello")))
    });
    let kept_header = get(async |charge: Charge| -> Answer {
        work(&charge).await?;
        let mut response = metered(charge, stream(chunks(1)));
        response.headers_mut().insert("content-length", "6".parse().unwrap());
        Ok(response)
    });
    let kept_chunks = get(async |charge: Charge| -> Answer {
        work(&charge).await?;
        Ok(metered(charge, stream(chunks(3))))
    });
    let kept_trailers = get(async |charge: Charge| -> Answer {
        work(&charge).await?;
        let mut response = metered(charge, stream(chunks(2).chain([Ok(trailers())])));
        response.headers_mut().insert("trailer", "x-end".parse().unwrap());
        Ok(response)
    });
    let kept_nothing = get(async |charge: Charge| -> Answer {
        work(&charge).await?;
        Ok(metered(charge, Empty::new()))
    });
    let kept_error = get(async |charge: Charge| -> Answer {
        work(&charge).await?;
        Ok(metered(charge, stream(chunks(2).chain([Err("the model went away".into())]))))
    });
    let kept_error_whole = get(async |charge: Charge| -> Answer {
        work(&charge).await?;
        charge.on_interrupt(OnInterrupt::WholeHold);
        Ok(metered(charge, stream(chunks(2).chain([Err("the model went away".into())]))))
    });
    let let_go = get(async |charge: Charge| -> Answer {
        work(&charge).await?;
        // The body lets its handle go with the second of three chunks.
        let mut charge = Some(charge);
        let frames = (0..3).map(move |number| {
            if number == 1 {
                charge.take();
            }
            Ok::<_, Infallible>(Frame::data(Bytes::from_static(b"chunk.")))
        });
        Ok(Response::new(Body::new(StreamBody::new(stream::iter(frames)))))
    });
    let no_content = get(async |charge: Charge| -> Answer {
        work(&charge).await?;
        Ok(with_status(StatusCode::NO_CONTENT, metered(charge, Empty::new())).await)
    });
    let odd_no_content = get(async |charge: Charge| -> Answer {
        work(&charge).await?;
        Ok(with_status(StatusCode::NO_CONTENT, metered(charge, stream(chunks(2)))).await)
    });
    let not_modified = get(async |charge: Charge| -> Answer {
        work(&charge).await?;
        Ok(with_status(StatusCode::NOT_MODIFIED, metered(charge, stream(chunks(2)))).await)
    });
    let paid = get(async |charge: Charge| -> Answer {
        charge.pay(Amount::cents(7)).await?;
        Ok("bought".into_response())
    });
    let free = get(async |_: agentkey::KeyContext| "free");
    Router::new()
        .route("/plain", plain)
        .route("/chunked", chunked)
        .route("/nothing", nothing)
        .route("/failing", failing)
        .route("/kept/length", kept_length)
        .route("/kept/header", kept_header)
        .route("/kept/chunks", kept_chunks)
        .route("/kept/trailers", kept_trailers)
        .route("/kept/nothing", kept_nothing)
        .route("/kept/error", kept_error)
        .route("/kept/error/whole", kept_error_whole)
        .route("/let-go", let_go)
        .route("/no-content", no_content)
        .route("/no-content/odd", odd_no_content)
        .route("/not-modified", not_modified)
        .route("/paid", paid)
        .route("/free", free)
        .layer(world.layer())
}

struct Case {
    method: Method,
    path: &'static str,
    status: u16,
    /// What the body is, or was before it broke off.
    body: &'static str,
    breaks: bool,
    ledger: &'static [(&'static str, i32)],
}

const fn case(
    path: &'static str,
    body: &'static str,
    ledger: &'static [(&'static str, i32)],
) -> Case {
    Case { method: Method::GET, path, status: 200, body, breaks: false, ledger }
}

/// All that are settled at their end.
fn settled() -> Vec<Case> {
    let head = |path, ledger| Case { method: Method::HEAD, ..case(path, "", ledger) };
    vec![
        case("/plain", "hello", &[("settle", 3)]),
        case("/chunked", "chunk.chunk.chunk.", &[("settle", 3)]),
        case("/nothing", "", &[("settle", 3)]),
        Case { status: 500, ..case("/failing", "", &[("settle", 3)]) },
        case("/kept/length", "hello", &[("settle", 4)]),
        case("/kept/header", "chunk.", &[("settle", 4)]),
        case("/kept/chunks", "chunk.chunk.chunk.", &[("settle", 6)]),
        case("/kept/trailers", "chunk.chunk.", &[("settle", 5)]),
        case("/kept/nothing", "", &[("settle", 3)]),
        Case { breaks: true, ..case("/kept/error", "chunk.chunk.", &[("settle", 5)]) },
        Case { breaks: true, ..case("/kept/error/whole", "chunk.chunk.", &[("settle", 10)]) },
        case("/let-go", "chunk.chunk.chunk.", &[("settle", 3)]),
        Case { status: 204, ..case("/no-content", "", &[("settle", 3)]) },
        Case { status: 204, ..case("/no-content/odd", "", &[("settle", 3)]) },
        Case { status: 304, ..case("/not-modified", "", &[("settle", 3)]) },
        head("/plain", &[("settle", 3)]),
        head("/chunked", &[("settle", 3)]),
        head("/nothing", &[("settle", 3)]),
        head("/kept/length", &[("settle", 3)]),
        head("/kept/header", &[("settle", 3)]),
        head("/kept/chunks", &[("settle", 3)]),
    ]
}

impl Case {
    fn check(&self, version: Version, seen: &Seen) {
        let name = format!("{version:?} {} {}", self.method, self.path);
        assert_eq!(seen.status.as_u16(), self.status, "{name}");
        assert_eq!(seen.error.is_some(), self.breaks, "{name}: {:?}", seen.error);
        if self.breaks {
            // What was on its way when the connection broke may not have arrived.
            assert!(self.body.starts_with(&seen.data), "{name}");
        } else {
            assert_eq!(seen.data, self.body, "{name}");
        }
    }
}

#[tokio::test]
async fn the_charge_is_in_the_ledger_when_the_client_sees_the_end() {
    for version in Version::BOTH {
        let also = [case("/paid", "bought", &[("pay", 7)]), case("/free", "free", &[])];
        for case in settled().into_iter().chain(also) {
            let world = World::new().await;
            let (_, token) = world.key().await;
            let client = Client::new(version, serve(app(&world)).await, &token);
            let seen = client.send(client.request(case.method.clone(), case.path)).await;
            let ledger = world.ledger().await;
            case.check(version, &seen);
            assert_eq!(
                ledger,
                Ledger::of(case.ledger),
                "{version:?} {} {}",
                case.method,
                case.path
            );
        }
    }
}

/// The same promise, with a store that takes its time: no client sees an end before the commit.
#[tokio::test]
async fn the_end_waits_for_the_commit() {
    for version in Version::BOTH {
        for case in settled() {
            let world = World::new().await;
            let (_, token) = world.key().await;
            let client = Client::new(version, serve(app(&world)).await, &token);
            let committing = Arc::new(AtomicBool::new(false));
            world.spy.set(Faults::posts(Fault::Hang).only(is_settle));
            let request = client.request(case.method.clone(), case.path);
            let waiting = tokio::spawn({
                let (client, committing) = (client.clone(), committing.clone());
                async move {
                    let seen = client.send(request).await;
                    (seen, committing.load(Ordering::SeqCst))
                }
            });
            world.spy.arrived(1, is_settle).await;
            // An end that was sent too early would have come before the end of another response.
            assert_eq!(client.get("/free").await.data, "free");
            tokio::task::yield_now().await;
            assert!(!waiting.is_finished(), "{version:?} {} {}", case.method, case.path);
            committing.store(true, Ordering::SeqCst);
            world.spy.mend();
            let (seen, was_committing) = waiting.await.unwrap();
            let ledger = world.ledger().await;
            assert!(
                was_committing,
                "{version:?} {} {}: the end came first",
                case.method, case.path
            );
            case.check(version, &seen);
            assert_eq!(
                ledger,
                Ledger::of(case.ledger),
                "{version:?} {} {}",
                case.method,
                case.path
            );
            assert_eq!(world.spy.count(is_settle), 1);
        }
    }
}

/// One connection, many responses: framing stays right after every shape.
#[tokio::test]
async fn a_connection_is_reused_after_every_shape() {
    let world = World::new().await;
    let (_, token) = world.key().await;
    let addr = serve(app(&world)).await;
    let mut requests = String::new();
    for case in settled().iter().filter(|case| !case.breaks) {
        let (method, path) = (&case.method, case.path);
        requests += &format!(
            "{method} {path} HTTP/1.1\r\nhost: x\r\nx-api-key: {}\r\n\r\n",
            token.expose()
        );
    }
    requests += &format!(
        "GET /free HTTP/1.1\r\nhost: x\r\nx-api-key: {}\r\nconnection: close\r\n\r\n",
        token.expose()
    );
    let answers = super::support::raw(addr, requests.as_bytes()).await;
    let heads = answers.matches("HTTP/1.1 ").count();
    assert_eq!(heads, settled().iter().filter(|case| !case.breaks).count() + 1, "{answers}");
    assert!(answers.ends_with("\r\n\r\nfree"), "{answers}");
}

#[tokio::test]
async fn trailers_come_through() {
    for version in Version::BOTH {
        let world = World::new().await;
        let (_, token) = world.key().await;
        let client = Client::new(version, serve(app(&world)).await, &token);
        let seen = client.get("/kept/trailers").await;
        assert_eq!(seen.trailers.unwrap()["x-end"], "yes", "{version:?}");
        assert_eq!(world.ledger().await, Ledger::of(&[("settle", 5)]));
    }
}

/// `Content-Length` is sent where the end does not wait for the settle, and left out where it does. HEAD sends what GET
/// would, or nothing.
#[tokio::test]
async fn content_length_is_sent_or_left_out_but_never_wrong() {
    for (path, get, head) in [
        ("/plain", Some("5"), Some("5")),
        ("/nothing", Some("0"), Some("0")),
        ("/kept/length", None, Some("5")),
        ("/kept/header", None, Some("6")),
        ("/kept/nothing", Some("0"), Some("0")),
        ("/chunked", None, None),
        ("/kept/chunks", None, None),
    ] {
        for version in Version::BOTH {
            let world = World::new().await;
            let (_, token) = world.key().await;
            let client = Client::new(version, serve(app(&world)).await, &token);
            assert_eq!(
                client.get(path).await.header("content-length"),
                get,
                "{version:?} GET {path}"
            );
            let seen = client.send(client.request(Method::HEAD, path)).await;
            assert_eq!(seen.header("content-length"), head, "{version:?} HEAD {path}");
            assert_eq!(seen.data, "");
        }
    }
}

/// Cost is posted even when it is more than was held and more than the key may spend.
#[tokio::test]
async fn what_it_really_cost_is_posted_beyond_hold_and_limit() {
    let world = World::new().await;
    let (_, token) = world.key().await;
    let app = Router::new().route(
        "/",
        get(async |charge: Charge| -> Result<&'static str, Rejection> {
            charge.hold(Amount::cents(10)).await?;
            charge.add(Amount::cents(250));
            Ok("dear")
        }),
    );
    let client = Client::new(Version::Http1, serve(app.layer(world.layer())).await, &token);
    assert_eq!(client.get("/").await.status, 200);
    assert_eq!(world.ledger().await, Ledger::of(&[("settle", 250)]));
    assert_eq!(client.get("/").await.refused(), (402, "budget_exceeded".into()));
    assert_eq!(world.ledger().await, Ledger::of(&[("settle", 250)]));
}

/// Many at once on one account, over both protocols: nothing is lost, nothing is charged twice.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_at_once_are_each_charged_once() {
    let world = World::new().await;
    let (_, token) = world.key().await;
    let addr = serve(app(&world)).await;
    let clients = Version::BOTH.map(|version| Client::new(version, addr, &token));
    // 10 cents held for each: at most 10 fit into the dollar at a time, and only 3 to 6 of them are spent.
    let mut requests = tokio::task::JoinSet::new();
    for number in 0..60 {
        let client = clients[number % 2].clone();
        let (path, cost) = [("/plain", 3), ("/kept/chunks", 6), ("/kept/length", 4)][number % 3];
        requests.spawn(async move { (client.get(path).await, cost) });
    }
    let (mut spent, mut charges) = (0, 0);
    while let Some(done) = requests.join_next().await {
        let (seen, cost) = done.unwrap();
        match seen.status.as_u16() {
            200 => {
                spent += cost;
                charges += 1;
            }
            402 => {}
            other => panic!("{other}: {}", seen.data),
        }
    }
    let ledger = world.ledger().await;
    assert_eq!(
        (ledger.spent, ledger.held, ledger.entries.len()),
        (Amount::cents(spent), Amount::ZERO, charges)
    );
    assert!(spent <= 100 && charges >= 10, "{spent} cents in {charges} charges");
}

mod broken_store {
    use super::super::support::{capture_logs, logged};
    use super::*;
    use agentkey::AgentKeys;
    use std::time::Duration;

    /// A settle is tried once; what cannot be posted is in the log.
    async fn world() -> World {
        capture_logs();
        World::with(AgentKeys::builder().settle_timeout(Duration::ZERO)).await
    }

    #[tokio::test]
    async fn before_the_head_it_becomes_a_503() {
        for version in Version::BOTH {
            for (method, path) in [
                (Method::GET, "/plain"),
                (Method::GET, "/chunked"),
                (Method::GET, "/no-content"),
                (Method::HEAD, "/plain"),
            ] {
                let world = world().await;
                let (_, token) = world.key().await;
                let client = Client::new(version, serve(app(&world)).await, &token);
                world.spy.set(Faults::posts(Fault::Down).only(is_settle));
                let seen = client.send(client.request(method.clone(), path)).await;
                assert_eq!(seen.status, 503, "{version:?} {method} {path}");
                assert_eq!(seen.header("retry-after"), Some("1"));
                if method == Method::GET {
                    assert_eq!(seen.refused(), (503, "unavailable".into()));
                    assert!(
                        !seen.data.contains("SECRET") && !seen.data.contains("hello"),
                        "{}",
                        seen.data
                    );
                }
                assert_eq!(world.ledger().await, Ledger::of(&[]).holding(10));
            }
        }
        assert!(
            !logged(&["post it by hand", "account=acme", "cost_micros=30000", "holds=["])
                .is_empty()
        );
    }

    #[tokio::test]
    async fn after_the_head_the_body_is_aborted() {
        for version in Version::BOTH {
            for path in ["/kept/length", "/kept/header", "/kept/chunks", "/kept/trailers"] {
                let world = world().await;
                let (_, token) = world.key().await;
                let client = Client::new(version, serve(app(&world)).await, &token);
                world.spy.set(Faults::posts(Fault::Down).only(is_settle));
                let seen = client.get(path).await;
                assert!(
                    seen.error.is_some(),
                    "{version:?} {path} ended as if nothing had happened: {seen:?}"
                );
                assert!(seen.trailers.is_none());
                assert_eq!(world.ledger().await, Ledger::of(&[]).holding(10));
            }
        }
        assert!(
            !logged(&["post it by hand", "account=acme", "cost_micros=60000", "holds=["])
                .is_empty()
        );
    }
}
