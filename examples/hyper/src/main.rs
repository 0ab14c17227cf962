//! The layers without axum: a plain hyper server with a tower service behind `AgentKeyLayer`.
//!
//! `cargo run -p example-hyper`, then paste the line it prints. `ADDR` overrides the address.

use std::convert::Infallible;
use std::env;

use agentkey::{
    AgentKeyLayer, AgentKeys, Amount, Budget, Charge, KeyContext, MemoryStore, NewKey, Rejection,
};
use agentkey::{RequireScope, ScopeSet};
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpListener;
use tower::{ServiceBuilder, service_fn};

/// Without extractors, the key is in the request's extensions, and a refusal makes its own response.
async fn handle(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    Ok(match request.extensions().get::<KeyContext>() {
        Some(key) => answer(key).await.unwrap_or_else(|error| error.to_response().map(Full::new)),
        None => Response::new(Full::from("no key: the layer is optional, or missing\n")),
    })
}

async fn answer(key: &KeyContext) -> Result<Response<Full<Bytes>>, Rejection> {
    let charge = Charge::begin(key).await?;
    charge.hold(Amount::cents(4)).await?;
    charge.add(Amount::cents(3));
    Ok(Response::new(Full::from(format!("42, says {}\n", key.key().name))))
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let keys = AgentKeys::new(MemoryStore::new())?; // a service keeps them in a file: `AgentKeys::sqlite("keys.db")`
    let demo = NewKey::new("demo".parse()?)
        .name("demo")
        .scopes(ScopeSet::parse(["answer"])?)
        .budget(Budget::daily(Amount::cents(10)));
    let created = keys.create(demo).await?;

    let listener =
        TcpListener::bind(env::var("ADDR").as_deref().unwrap_or("127.0.0.1:3000")).await?;
    let addr = listener.local_addr()?;
    println!("Listening on http://{addr}, keys in memory. Ctrl-C ends it.");
    println!(
        "The key has 10 cents a day, and a request costs 3; the fourth time 1 is left: 402.\n"
    );
    println!("  curl -i -H 'Authorization: Bearer {}' http://{addr}/", created.token.expose());

    let service = ServiceBuilder::new()
        .layer(AgentKeyLayer::new(&keys))
        .layer(RequireScope::one("answer")?)
        .service(service_fn(handle));
    let connections = GracefulShutdown::new();
    let mut stop = std::pin::pin!(tokio::signal::ctrl_c());
    loop {
        let (stream, _) = tokio::select! {
            accepted = listener.accept() => accepted?,
            _ = &mut stop => break,
        };
        let serving = http1::Builder::new()
            .timer(TokioTimer::new())
            .serve_connection(TokioIo::new(stream), TowerToHyperService::new(service.clone()));
        let serving = connections.watch(serving);
        tokio::spawn(async move {
            if let Err(error) = serving.await {
                eprintln!("a connection ended early: {error}");
            }
        });
    }
    connections.shutdown().await;
    keys.shutdown().await; // every charge is posted before the process ends
    Ok(())
}
