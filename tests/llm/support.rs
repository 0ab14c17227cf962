//! A proxy with a meter, and an upstream that sends what a test says.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use agentkey::http::BodyError;
use agentkey::llm::{Format, FourBytes, Meter, Prompt};
use agentkey::model::TokenPrice;
use agentkey::{
    AccountId, AgentKeyLayer, AgentKeys, Amount, Budget, Charge, KeyId, NewKey, Rejection, Token,
};
use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use axum::routing::post;
use bytes::Bytes;
use http::{HeaderMap, Request, StatusCode};
use http_body::Frame;
use http_body_util::BodyExt;
use serde_json::Value;
use tower::ServiceExt;

use crate::whole::Tale;

/// 3 micros a token of input, 15 a token of output.
pub(crate) const PRICE: TokenPrice = TokenPrice::new(Amount::units(3), Amount::units(15));

/// A request of five tokens.
pub(crate) const ASK: &str =
    r#"{"model":"tales-1","stream":true,"messages":[{"role":"user","content":"Tell me a tale."}]}"#;

/// Only a hang gets here.
const HANG: Duration = Duration::from_secs(60);

/// What an upstream answers.
#[derive(Clone, Debug, Default)]
pub(crate) struct Upstream {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) pieces: Vec<Bytes>,
    /// What it answers instead, if that depends on what it is asked.
    pub(crate) tale: Option<Tale>,
    pub(crate) end: End,
    pub(crate) seen: Arc<Seen>,
}

/// What is seen of an upstream's answer.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    /// How many pieces were read of it.
    pub(crate) read: AtomicUsize,
    pub(crate) is_asked: AtomicBool,
    pub(crate) is_hung_up: AtomicBool,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum End {
    #[default]
    Ends,
    /// It sends no more, and does not end.
    Hangs,
    Fails,
    Trailers,
}

impl Upstream {
    /// Sends these bytes in pieces of a size.
    pub(crate) fn pieces(bytes: &[u8], size: usize) -> Self {
        Self { pieces: bytes.chunks(size).map(Bytes::copy_from_slice).collect(), ..Self::default() }
    }

    /// Sends these events, each in a piece.
    pub(crate) fn events(events: impl IntoIterator<Item = impl AsRef<[u8]>>) -> Self {
        let pieces = events.into_iter().map(|event| Bytes::copy_from_slice(event.as_ref()));
        Self { pieces: pieces.collect(), ..Self::default() }
    }

    pub(crate) fn end(self, end: End) -> Self {
        Self { end, ..self }
    }

    pub(crate) fn header(mut self, name: &'static str, value: &'static str) -> Self {
        self.headers.append(name, value.parse().unwrap());
        self
    }

    fn answer(&self, format: Format, request: &[u8]) -> http::Response<Sending> {
        self.seen.is_asked.store(true, Ordering::SeqCst);
        let told = self.tale.as_ref().map(|tale| tale.tell(format, request).into());
        let pieces = self.pieces.iter().cloned().chain(told).collect();
        let sending = Sending { pieces, end: Some(self.end.clone()), seen: self.seen.clone() };
        let mut answer = http::Response::new(sending);
        *answer.status_mut() = self.status;
        *answer.headers_mut() = self.headers.clone();
        answer
    }
}

struct Sending {
    pieces: VecDeque<Bytes>,
    end: Option<End>,
    seen: Arc<Seen>,
}

impl http_body::Body for Sending {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if let Some(piece) = self.pieces.pop_front() {
            self.seen.read.fetch_add(1, Ordering::SeqCst);
            return Poll::Ready(Some(Ok(Frame::data(piece))));
        }
        match self.end.take() {
            Some(End::Hangs) => {
                self.end = Some(End::Hangs);
                Poll::Pending
            }
            Some(End::Fails) => Poll::Ready(Some(Err("the upstream broke off".into()))),
            Some(End::Trailers) => {
                let mut trailers = HeaderMap::new();
                trailers.insert("x-checksum", "1".parse().unwrap());
                Poll::Ready(Some(Ok(Frame::trailers(trailers))))
            }
            Some(End::Ends) | None => Poll::Ready(None),
        }
    }
}

impl Drop for Sending {
    fn drop(&mut self) {
        self.seen.is_hung_up.store(true, Ordering::SeqCst);
    }
}

/// What the proxy is set to.
#[derive(Clone)]
pub(crate) struct Setting {
    pub(crate) upstream: Upstream,
    pub(crate) format: Format,
    pub(crate) meter: Meter,
}

async fn proxy(
    State(setting): State<Arc<Mutex<Setting>>>,
    charge: Charge,
    body: Bytes,
) -> Result<Response, Rejection> {
    let Setting { upstream, format, meter } = setting.lock().unwrap().clone();
    let meter = meter.prompt(Prompt::read(&body, &FourBytes).unwrap());
    let request = meter.to_upstream(format, &body).unwrap();
    charge.hold_for(&meter).await?;
    Ok(charge.meter(upstream.answer(format, &request), format, meter).map(Body::new))
}

/// A key with a limit, and the proxy that it calls.
pub(crate) struct World {
    pub(crate) keys: AgentKeys,
    pub(crate) key: KeyId,
    token: Token,
}

impl World {
    pub(crate) async fn new(limit: Amount) -> Self {
        #[cfg(feature = "sqlite")]
        let keys = AgentKeys::in_memory().await.unwrap();
        #[cfg(not(feature = "sqlite"))]
        let keys = AgentKeys::new(agentkey::MemoryStore::new()).unwrap();
        Self::on(keys, limit).await
    }

    pub(crate) async fn on(keys: AgentKeys, limit: Amount) -> Self {
        let account: AccountId = "acme".parse().unwrap();
        let created = keys.create(NewKey::new(account).budget(Budget::lifetime(limit))).await;
        let created = created.unwrap();
        Self { keys, key: created.key.id, token: created.token }
    }

    pub(crate) async fn ask(&self, upstream: Upstream) -> Answer {
        let meter = Meter::new(PRICE);
        self.send(Setting { upstream, format: Format::ChatCompletions, meter }, ASK).await
    }

    pub(crate) async fn send(&self, setting: Setting, body: &str) -> Answer {
        let app = Router::new()
            .route("/", post(proxy))
            .layer(AgentKeyLayer::new(&self.keys))
            .with_state(Arc::new(Mutex::new(setting)));
        let request = Request::post("/")
            .header("authorization", format!("Bearer {}", self.token.expose()))
            .body(Body::from(body.to_owned()))
            .unwrap();
        let (head, body) = app.oneshot(request).await.unwrap().into_parts();
        Answer { status: head.status, headers: head.headers, body, text: Vec::new() }
    }

    /// What the ledger says: spent and held, in micros.
    pub(crate) async fn ledger(&self) -> (i64, i64) {
        let lineage = self.keys.find_by_id(self.key).await.unwrap().unwrap();
        let balance = &lineage.key().balance;
        (balance.spent().as_micros(), balance.held.as_micros())
    }

    /// What the ledger says of spending, once nothing is held any more.
    pub(crate) async fn settled(&self) -> i64 {
        let settled = async {
            loop {
                let (spent, held) = self.ledger().await;
                if held == 0 && spent > 0 {
                    return spent;
                }
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(HANG, settled).await.expect("the hold stays, or nothing is spent")
    }
}

/// What a client sees.
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    body: Body,
    pub(crate) text: Vec<u8>,
}

/// How an answer ended.
#[derive(Debug, Default)]
pub(crate) struct Ended {
    pub(crate) text: String,
    pub(crate) error: Option<String>,
    pub(crate) trailers: Option<HeaderMap>,
}

impl Ended {
    /// The data of the last event.
    pub(crate) fn last_event(&self) -> Value {
        let data = self.text.trim_end().rsplit("data: ").next().unwrap();
        serde_json::from_str(data).unwrap_or(Value::Null)
    }

    pub(crate) fn is_cut(&self) -> bool {
        self.last_event()["error"]["code"] == "budget_exceeded"
    }
}

impl Answer {
    /// Reads so many bytes, or more.
    pub(crate) async fn read(&mut self, bytes: usize) {
        while self.text.len() < bytes {
            let frame = tokio::time::timeout(HANG, self.body.frame()).await.expect("it hangs");
            self.text.extend(frame.expect("more").unwrap().into_data().unwrap());
        }
    }

    pub(crate) async fn read_all(mut self) -> Ended {
        let mut ended = Ended::default();
        while let Some(frame) =
            tokio::time::timeout(HANG, self.body.frame()).await.expect("it hangs")
        {
            match frame.map(Frame::into_data) {
                Ok(Ok(data)) => self.text.extend(data),
                Ok(Err(frame)) => ended.trailers = frame.into_trailers().ok(),
                Err(error) => ended.error = Some(error.to_string()),
            }
        }
        ended.text = String::from_utf8_lossy(&self.text).into_owned();
        ended
    }
}

/// A chunk of five tokens.
pub(crate) const W: &str = r#"{"choices":[{"index":0,"delta":{"content":"once upon a time, "}}]}"#;

/// W with a member of its own.
pub(crate) fn w_with(member: &str) -> String {
    format!("{},{member}}}", &W[..W.len() - 1])
}

pub(crate) fn event(data: impl AsRef<str>) -> String {
    format!("data: {}\n\n", data.as_ref())
}

pub(crate) const DONE: &str = "data: [DONE]\n\n";
