//! The MCP server: two tools, each with a scope and a price.

use agentkey::model::Scope;
use agentkey::{AgentKeys, Amount, KeyContext, Rejection};
use axum::body::{Body, to_bytes};
use axum::extract::Request;
use axum::http::StatusCode;
use axum::http::request::Parts;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use rmcp::handler::server::router::tool::ToolRouter;
use rmcp::handler::server::tool::Extension;
use rmcp::handler::server::wrapper::Parameters;
use rmcp::model::{CallToolResult, ServerCapabilities, ServerConfig};
use rmcp::{ServerHandler, schemars, tool, tool_handler, tool_router};
use serde::Deserialize;
use serde_json::Value;

/// The largest request that is read to see which tool it calls.
const MAX_BODY: usize = 64 * 1024;

#[derive(Clone)]
pub struct Tools {
    keys: AgentKeys,
    tool_router: ToolRouter<Self>,
}

#[derive(Deserialize, schemars::JsonSchema)]
struct Text {
    text: String,
}

#[tool_router]
impl Tools {
    pub fn new(keys: &AgentKeys) -> Self {
        Self { keys: keys.clone(), tool_router: Self::tool_router() }
    }

    #[tool(description = "Searches a text. Scope `search`, 2 cents a call.")]
    async fn search(
        &self,
        Parameters(Text { text }): Parameters<Text>,
        Extension(request): Extension<Parts>,
    ) -> CallToolResult {
        let answer = self.pay("search", Amount::cents(2), &request).await;
        answered(answer.map(|()| format!("3 results for {text:?}").into()))
    }

    #[tool(description = "Translates a text. Scope `translate`, 5 cents a call.")]
    async fn translate(
        &self,
        Parameters(Text { text }): Parameters<Text>,
        Extension(request): Extension<Parts>,
    ) -> CallToolResult {
        let answer = self.pay("translate", Amount::cents(5), &request).await;
        answered(answer.map(|()| format!("{text:?} in French").into()))
    }

    /// Checks the scope of a tool, which has the tool's name, and charges its price.
    ///
    /// The head of the response may be on its way, so the charge is one of its own and is posted here.
    async fn pay(&self, tool: &str, price: Amount, request: &Parts) -> Result<(), Rejection> {
        let key = KeyContext::from_extensions(&request.extensions)?;
        key.require(&scope_of(tool)?)?;
        let charge = self.keys.charge(key).await?;
        charge.label("tool", tool)?;
        charge.pay(price).await?;
        Ok(())
    }
}

#[tool_handler(router = self.tool_router)]
impl ServerHandler for Tools {
    fn get_info(&self) -> ServerConfig {
        ServerConfig::new(ServerCapabilities::builder().enable_tools().build())
    }
}

/// Returns the result of a tool. A refusal is an error that the model can read, with the figures.
fn answered(answer: Result<Value, Rejection>) -> CallToolResult {
    match answer {
        Ok(answer) => CallToolResult::structured(serde_json::json!({ "answer": answer })),
        Err(rejection) => {
            let problem = serde_json::from_slice(rejection.to_response().body());
            CallToolResult::structured_error(problem.unwrap_or_default())
        }
    }
}

/// Refuses a call of a tool that the key has no scope for with 403 and a challenge, as MCP's authorization asks: the client can then
/// ask its authorization server for more.
pub async fn check_scope(key: KeyContext, request: Request, next: Next) -> Response {
    let (parts, body) = request.into_parts();
    let Ok(body) = to_bytes(body, MAX_BODY).await else {
        return StatusCode::PAYLOAD_TOO_LARGE.into_response();
    };
    let called = serde_json::from_slice::<Value>(&body).unwrap_or_default();
    if called["method"] == "tools/call"
        && let Some(tool) = called["params"]["name"].as_str()
        && let Err(rejection) = scope_of(tool).and_then(|scope| key.require(&scope))
    {
        return rejection.into_response();
    }
    next.run(Request::from_parts(parts, Body::from(body))).await
}

fn scope_of(tool: &str) -> Result<Scope, Rejection> {
    tool.parse().map_err(|_| agentkey::Refusal::InvalidKey.into())
}
