//! Clients, and what they see.

use std::net::SocketAddr;

use agentkey::Token;
use bytes::Bytes;
use http::header::{AUTHORIZATION, HeaderMap};
use http::{Method, Request, Response, StatusCode};
use http_body::Body;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::client::legacy;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Version {
    Http1,
    Http2,
}

impl Version {
    pub(crate) const BOTH: [Self; 2] = [Self::Http1, Self::Http2];
}

/// A client of one service with one token.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    http: legacy::Client<HttpConnector, Full<Bytes>>,
    addr: SocketAddr,
    token: String,
}

impl Client {
    pub(crate) fn new(version: Version, addr: SocketAddr, token: &Token) -> Self {
        let http = legacy::Client::builder(TokioExecutor::new())
            .http2_only(version == Version::Http2)
            .build_http();
        Self { http, addr, token: token.expose().to_owned() }
    }

    pub(crate) fn request(&self, method: Method, path: &str) -> Request<Full<Bytes>> {
        Request::builder()
            .method(method)
            .uri(format!("http://{}{path}", self.addr))
            .header(AUTHORIZATION, format!("Bearer {}", self.token))
            .header("te", "trailers")
            .body(Full::default())
            .unwrap()
    }

    /// The head of the response.
    pub(crate) async fn head(&self, request: Request<Full<Bytes>>) -> Response<Incoming> {
        super::soon(self.http.request(request)).await.unwrap()
    }

    pub(crate) async fn send(&self, request: Request<Full<Bytes>>) -> Seen {
        match super::soon(self.http.request(request)).await {
            Ok(response) => Seen::read(response).await,
            Err(error) => Seen { error: Some(error.to_string()), ..Seen::default() },
        }
    }

    pub(crate) async fn get(&self, path: &str) -> Seen {
        self.send(self.request(Method::GET, path)).await
    }

    /// Orders what a header says, at one and the same path.
    pub(crate) async fn order(&self, order: &str, idempotency_key: &str) -> Seen {
        let mut request = self.request(Method::POST, "/replayable");
        request.headers_mut().insert("x-order", order.parse().unwrap());
        request.headers_mut().insert("idempotency-key", idempotency_key.parse().unwrap());
        self.send(request).await
    }

    pub(crate) async fn post(&self, path: &str, idempotency_key: &str) -> Seen {
        let mut request = self.request(Method::POST, path);
        request.headers_mut().insert("idempotency-key", idempotency_key.parse().unwrap());
        self.send(request).await
    }
}

/// All that a client saw of a response, up to its end.
#[derive(Clone, Debug, Default)]
pub(crate) struct Seen {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) data: String,
    pub(crate) trailers: Option<HeaderMap>,
    /// How it ended, if not well.
    pub(crate) error: Option<String>,
    pub(crate) refusal: Option<agentkey::Refusal>,
}

impl Seen {
    pub(crate) async fn read<B>(response: Response<B>) -> Self
    where
        B: Body<Data = Bytes>,
        B::Error: std::fmt::Display,
    {
        let (head, body) = response.into_parts();
        let refusal = head.extensions.get().cloned();
        let mut seen =
            Self { status: head.status, headers: head.headers, refusal, ..Self::default() };
        let mut body = std::pin::pin!(body);
        while let Some(frame) = super::soon(body.frame()).await {
            match frame.map(|frame| frame.into_data()) {
                Ok(Ok(data)) => seen.data.push_str(std::str::from_utf8(&data).unwrap()),
                Ok(Err(frame)) => seen.trailers = frame.into_trailers().ok(),
                Err(error) => {
                    seen.error = Some(error.to_string());
                    break;
                }
            }
        }
        seen
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.data).unwrap()
    }

    /// The status and the `error` member of a refusal.
    pub(crate) fn refused(&self) -> (u16, String) {
        (self.status.as_u16(), self.json()["error"].as_str().unwrap().to_owned())
    }
}

/// Sends these bytes and reads until the server closes the connection.
pub(crate) async fn raw(addr: SocketAddr, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(addr).await.unwrap();
    // A server that has heard enough closes before all is written.
    let _ = stream.write_all(bytes).await;
    let mut answer = Vec::new();
    let _ = super::soon(stream.read_to_end(&mut answer)).await;
    String::from_utf8_lossy(&answer).into_owned()
}
