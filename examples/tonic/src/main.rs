//! The layers without axum: a gRPC service of tonic, with refusals as `grpc-status`.
//!
//! `cargo run -p example-tonic` tells a story of calls over loopback, printing and asserting every answer; with `-- --serve` it stays
//! up afterwards. What `tonic-build` would generate from a `.proto` file is written by hand at the end.

use std::convert::Infallible;
use std::env;

use agentkey::{
    AgentKeyLayer, AgentKeys, Amount, Budget, Charge, KeyContext, MemoryStore, NewKey, Refusal,
};
use agentkey::{RequireScope, ScopeSet, Token};
use bytes::{Buf, BufMut};
use http::uri::{PathAndQuery, Uri};
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper_util::client::legacy::{Client, connect::HttpConnector};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpListener;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::metadata::{MetadataMap, MetadataValue};
use tonic::{Code, Request, Response, Status};
use tower::{ServiceBuilder, service_fn};

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// The method `demo.Oracle/Answer`. The layer put the key into the extensions of the request.
async fn answer(request: Request<String>) -> Result<Response<String>, Status> {
    let key = request
        .extensions()
        .get::<KeyContext>()
        .ok_or_else(|| Status::internal("the layer is missing"))?;
    let charge = Charge::begin(key).await.map_err(|error| status(error.refusal()))?;
    charge.hold(Amount::cents(3)).await.map_err(|error| status(error.refusal()))?;
    charge.add(Amount::cents(3));
    Ok(Response::new(format!("{}? 42.", request.get_ref())))
}

/// What a refusal is in gRPC. Its stable code goes with it as metadata.
fn status(refusal: &Refusal) -> Status {
    let code = match refusal {
        Refusal::MissingKey
        | Refusal::InvalidKey
        | Refusal::MissingScheme
        | Refusal::RevokedKey
        | Refusal::ExpiredKey => Code::Unauthenticated,
        Refusal::InsufficientScope(_) => Code::PermissionDenied,
        Refusal::BudgetExceeded(_) => Code::ResourceExhausted,
        Refusal::AlreadyCharged(_) => Code::AlreadyExists,
        Refusal::InFlight | Refusal::Conflict => Code::Aborted,
        Refusal::Unavailable { .. } => Code::Unavailable,
        Refusal::AmbiguousCredentials { .. }
        | Refusal::InvalidIdempotencyKey
        | Refusal::InvalidLabel(_)
        | Refusal::NegativeAmount => Code::InvalidArgument,
        Refusal::UnknownEntry => Code::NotFound,
        Refusal::HoldExpired | Refusal::RefundTooLarge { .. } => Code::FailedPrecondition,
        _ => Code::Internal,
    };
    let mut metadata = MetadataMap::new();
    metadata.insert("agentkey-error", MetadataValue::from_static(refusal.code()));
    Status::with_metadata(code, refusal.to_string(), metadata)
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let keys = AgentKeys::new(MemoryStore::new())?; // a service keeps them in a file: `AgentKeys::sqlite("keys.db")`
    let layer = AgentKeyLayer::new(&keys)
        .on_refusal(|refused, _problem| status(refused.refusal).into_http());
    let service = ServiceBuilder::new()
        .layer(layer)
        .layer(RequireScope::one("oracle.answer")?)
        .service(service_fn(route));

    let listener = TcpListener::bind(env::var("ADDR").as_deref().unwrap_or("127.0.0.1:0")).await?;
    let addr = listener.local_addr()?;
    let (stop, mut stopped) = tokio::sync::oneshot::channel::<()>();
    let serving = tokio::spawn(async move {
        let connections = GracefulShutdown::new();
        loop {
            let (stream, _) = tokio::select! {
                accepted = listener.accept() => accepted?,
                _ = &mut stopped => break,
            };
            let service = TowerToHyperService::new(service.clone());
            let serving = http2::Builder::new(TokioExecutor::new())
                .serve_connection(TokioIo::new(stream), service);
            tokio::spawn(connections.watch(serving));
        }
        connections.shutdown().await;
        std::io::Result::Ok(())
    });

    walk(&keys, format!("http://{addr}").parse()?).await?;
    if env::args().any(|arg| arg == "--serve") {
        println!("\nListening on {addr}. Ctrl-C ends it.");
        tokio::signal::ctrl_c().await?;
    }
    drop(stop);
    serving.await??;
    keys.shutdown().await; // every charge is posted before the process ends
    Ok(())
}

async fn walk(keys: &AgentKeys, origin: Uri) -> Result<(), BoxError> {
    let oracle = Oracle::at(origin);
    let agent = NewKey::new("acme".parse()?).scopes(ScopeSet::parse(["oracle.*"])?);
    let agent = keys.create(agent.budget(Budget::lifetime(Amount::cents(7)))).await?.token;
    let reader =
        keys.create(NewKey::new("acme".parse()?).scopes(ScopeSet::parse(["read"])?)).await?.token;

    println!("A call without a key is refused, and so is a key without the scope oracle.answer.");
    oracle.ask(None, None).await.is(Code::Unauthenticated, "missing_key")?;
    oracle.ask(Some(&reader), None).await.is(Code::PermissionDenied, "insufficient_scope")?;

    println!("\nThe agent's key has the scope oracle.* and 7 cents. An answer costs 3.");
    oracle.ask(Some(&agent), None).await.is(Code::Ok, "")?;

    println!("\nIt asks again, under an idempotency-key; that costs 3 more, and leaves 1.");
    oracle.ask(Some(&agent), Some("ask-1")).await.is(Code::Ok, "")?;

    println!(
        "\nIts network stutters, and it sends the same call once more: nothing is charged twice."
    );
    oracle.ask(Some(&agent), Some("ask-1")).await.is(Code::AlreadyExists, "already_charged")?;

    println!(
        "\nA new question costs more than the 1 cent that is left: it is refused before any work is done."
    );
    oracle.ask(Some(&agent), None).await.is(Code::ResourceExhausted, "budget_exceeded")?;
    Ok(())
}

/// What came back, and for which call.
struct Answer {
    call: String,
    result: Result<String, Status>,
}

impl Answer {
    /// Prints what came, and asserts its status and, of a refusal, the `agentkey-error` in its metadata.
    fn is(self, code: Code, error: &str) -> Result<(), BoxError> {
        let (told, told_error) = match &self.result {
            Ok(text) => {
                println!("  {:<29} grpc-status 0 (Ok)\n      {text}", self.call);
                (Code::Ok, "")
            }
            Err(status) => {
                let error =
                    status.metadata().get("agentkey-error").ok_or("no agentkey-error")?.to_str()?;
                println!(
                    "  {:<29} grpc-status {} ({:?})",
                    self.call,
                    i32::from(status.code()),
                    status.code()
                );
                println!("      agentkey-error: {error}\n      grpc-message: {}", status.message());
                (status.code(), error)
            }
        };
        assert_eq!((told, told_error), (code, error));
        Ok(())
    }
}

// ----------------------------------------------------------------------------------- what tonic-build generates

const ANSWER: &str = "/demo.Oracle/Answer";

async fn route(
    request: http::Request<Incoming>,
) -> Result<http::Response<tonic::body::Body>, Infallible> {
    Ok(match request.uri().path() {
        ANSWER => tonic::server::Grpc::new(Text).unary(service_fn(answer), request).await,
        _ => Status::unimplemented("there is no such method").into_http(),
    })
}

struct Oracle {
    http: Client<HttpConnector, tonic::body::Body>,
    origin: Uri,
}

impl Oracle {
    fn at(origin: Uri) -> Self {
        Self { http: Client::builder(TokioExecutor::new()).http2_only(true).build_http(), origin }
    }

    async fn ask(&self, token: Option<&Token>, idempotency: Option<&str>) -> Answer {
        let call = idempotency.map_or(ANSWER.to_owned(), |key| format!("{ANSWER} ({key})"));
        Answer { call, result: self.call(token, idempotency).await }
    }

    async fn call(
        &self,
        token: Option<&Token>,
        idempotency: Option<&str>,
    ) -> Result<String, Status> {
        let mut request = Request::new("Six times seven".to_owned());
        let bearer = token.map(|token| format!("Bearer {}", token.expose()));
        let metadata = [("authorization", bearer.as_deref()), ("idempotency-key", idempotency)];
        for (name, value) in metadata {
            if let Some(value) = value.and_then(|value| value.parse().ok()) {
                request.metadata_mut().insert(name, value);
            }
        }
        let mut grpc = tonic::client::Grpc::with_origin(self.http.clone(), self.origin.clone());
        grpc.ready().await.map_err(|error| Status::from_error(error.into()))?;
        Ok(grpc.unary(request, PathAndQuery::from_static(ANSWER), Text).await?.into_inner())
    }
}

/// Messages that are nothing but text, where others have `ProstCodec`.
#[derive(Default)]
struct Text;

impl Codec for Text {
    type Encode = String;
    type Decode = String;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Text {
    type Item = String;
    type Error = Status;

    fn encode(&mut self, text: String, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put(text.as_bytes());
        Ok(())
    }
}

impl Decoder for Text {
    type Item = String;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<String>, Status> {
        let bytes = buffer.copy_to_bytes(buffer.remaining());
        String::from_utf8(bytes.into())
            .map(Some)
            .map_err(|_| Status::invalid_argument("the text is not UTF-8"))
    }
}
