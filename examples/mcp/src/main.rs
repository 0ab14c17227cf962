//! An MCP server whose tools have scopes and prices, for agents that carry the tokens of another authorization server.
//!
//! `cargo run -p example-mcp` walks through it with the official SDK as client: the client finds the authorization server through the
//! resource's metadata (RFC 9728), gets a token there, lists the tools, calls one, is refused another, runs out of money, and is cut
//! off.

mod issuer;
mod server;

use std::sync::Arc;

use agentkey::identity::{JwtVerifier, Verified};
use agentkey::routes::ProtectedResource;
use agentkey::{
    AgentKeyLayer, AgentKeys, Amount, Budget, EntryQuery, KeyQuery, NewKey, Refusal, ScopeSet,
};
use axum::{Router, middleware};
use rmcp::model::CallToolRequestParams;
use rmcp::service::RunningService;
use rmcp::transport::StreamableHttpClientTransport;
use rmcp::transport::auth::{AuthClient, ClientCredentialsConfig, OAuthState};
use rmcp::transport::streamable_http_client::StreamableHttpClientTransportConfig;
use rmcp::transport::streamable_http_server::session::local::LocalSessionManager;
use rmcp::transport::streamable_http_server::{StreamableHttpServerConfig, StreamableHttpService};
use rmcp::{RoleClient, ServiceExt};
use serde_json::json;
use tokio::net::TcpListener;

use crate::issuer::{CLIENT_ID, CLIENT_SECRET, Issuer};
use crate::server::{Tools, check_scope};

type Error = Box<dyn std::error::Error + Send + Sync>;

/// What a machine of the tenant may do when it is first seen: both tools, for at most 5 cents a day, below the tenant's ceiling.
fn first_seen(machine: &Verified) -> Result<NewKey, Error> {
    Ok(NewKey::new("tenant".parse()?)
        .name(machine.subject.id())
        .scopes(ScopeSet::parse(["search", "translate"])?)
        .budget(Budget::daily(Amount::cents(5))))
}

fn app(keys: &AgentKeys, origin: &str, issuer: &str) -> Result<Router, Error> {
    let resource = ProtectedResource::new(&format!("{origin}/mcp"))?
        .scopes(["search".parse()?, "translate".parse()?])
        .authorization_server(issuer);
    let metadata = format!("{issuer}/.well-known/oauth-authorization-server");
    let verifier = JwtVerifier::from_metadata_url(issuer, metadata)
        .audience(format!("{origin}/mcp"))
        .allow_loopback_http() // the issuer of this example is on this machine
        .build()?;
    let layer = AgentKeyLayer::new(keys)
        .verifier(verifier)
        .on_first_seen(|machine| {
            std::future::ready(first_seen(&machine).map_err(|_| Refusal::Misconfigured))
        })
        .resource_metadata(&resource.metadata_url())
        .challenge_scopes(["search".parse()?]);
    let tools = Tools::new(keys);
    let mcp = StreamableHttpService::new(
        move || Ok(tools.clone()),
        Arc::new(LocalSessionManager::default()),
        StreamableHttpServerConfig::default(),
    );
    Ok(Router::new()
        .route_service("/mcp", mcp)
        .route_layer(middleware::from_fn(check_scope))
        .route_layer(layer)
        .merge(resource.into_router()))
}

#[tokio::main]
async fn main() -> Result<(), Error> {
    // reqwest, the HTTP client of the SDK, wants one also where there is no TLS, as here.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let keys = AgentKeys::in_memory().await?;
    keys.ensure_account("tenant".parse()?, Budget::monthly(Amount::units(20))).await?;
    let (listener, origin) = listen().await?;
    let (issuer_listener, issuer) = listen().await?;
    let issuer_app = Issuer::new(issuer.clone())?.into_router();
    let app = app(&keys, &origin, &issuer)?;
    let servers = [
        tokio::spawn(async move { axum::serve(issuer_listener, issuer_app).await }),
        tokio::spawn(async move { axum::serve(listener, app).await }),
    ];
    walk(&keys, &format!("{origin}/mcp")).await?;
    servers.iter().for_each(tokio::task::JoinHandle::abort);
    keys.shutdown().await;
    Ok(())
}

async fn listen() -> Result<(TcpListener, String), Error> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}", listener.local_addr()?);
    Ok((listener, url))
}

async fn walk(keys: &AgentKeys, url: &str) -> Result<(), Error> {
    println!("# A client without a token is told where the metadata are.");
    let config = StreamableHttpClientTransportConfig::with_uri(url);
    let refused = ().serve(StreamableHttpClientTransport::from_config(config)).await;
    let Err(refused) = refused else { return Err("a client without a token was let in".into()) };
    println!("{}\n", refused.auth_challenge().ok_or("no challenge")?);

    println!(
        "# With them it finds the authorization server, and gets a token for the scope `search`."
    );
    let client = connect(url, &["search"]).await?;

    println!("# It lists the tools.");
    for tool in client.list_all_tools().await? {
        println!("{}: {}", tool.name, tool.description.unwrap_or_default());
    }

    println!("\n# It calls one, for 2 cents.");
    call(&client, "search").await;
    println!("# Its token has no scope for the other one. The challenge says which to ask for.");
    call(&client, "translate").await;
    println!(
        "# A second search, and nothing is left for a third: 5 cents a day. The model sees the figures."
    );
    call(&client, "search").await;
    call(&client, "search").await;

    println!(
        "# The operator disables the machine. Its token lives on, and its next request is refused."
    );
    let machines = keys.keys(&KeyQuery::for_account("tenant".parse()?)).await?;
    let machine = machines.items.first().ok_or("no machine was seen")?;
    keys.disable(machine.id).await?;
    call(&client, "search").await;
    // Its session ends with a request, which is refused too.
    drop(client);

    println!("# What the ledger has:");
    let entries = keys.entries(&EntryQuery::for_account("tenant".parse()?)).await?;
    for entry in entries.items {
        println!("{}", serde_json::to_string(&entry)?);
    }
    Ok(())
}

/// Connects by the client credentials of the machine, as an agent in the cloud does.
async fn connect(url: &str, scopes: &[&str]) -> Result<RunningService<RoleClient, ()>, Error> {
    let mut oauth = OAuthState::new(url, None).await?;
    let credentials = ClientCredentialsConfig::ClientSecret {
        client_id: CLIENT_ID.to_owned(),
        client_secret: CLIENT_SECRET.to_owned(),
        scopes: scopes.iter().map(ToString::to_string).collect(),
        resource: Some(url.to_owned()),
    };
    oauth.authenticate_client_credentials(credentials).await?;
    let manager = oauth.into_authorization_manager().ok_or("no authorization")?;
    let http = AuthClient::new(reqwest::Client::new(), manager);
    let config = StreamableHttpClientTransportConfig::with_uri(url);
    Ok(().serve(StreamableHttpClientTransport::with_client(http, config)).await?)
}

async fn call(client: &RunningService<RoleClient, ()>, tool: &'static str) {
    let arguments = json!({ "text": "bees" }).as_object().cloned().unwrap_or_default();
    let asked = CallToolRequestParams::new(tool).with_arguments(arguments);
    match client.call_tool(asked).await {
        Ok(result) => {
            let content = result.structured_content.unwrap_or_default();
            let kind = if result.is_error == Some(true) { "error" } else { "result" };
            println!("{tool}: {kind} {content:#}\n");
        }
        Err(refused) => match refused.auth_challenge() {
            Some(challenge) => println!("{tool}: {challenge}\n"),
            None => println!("{tool}: {refused}\n"),
        },
    }
}
