//! The OpenAPI document of the routes, made from the types of [`wire`](super::wire).

mod operations;
mod schemas;

use std::sync::LazyLock;

use axum::Router;
use axum::extract::OriginalUri;
use axum::routing::get;
use http::StatusCode;
use serde_json::Value;
use utoipa::openapi::path::{OperationBuilder, ParameterBuilder, ParameterIn, PathsBuilder};
use utoipa::openapi::request_body::{RequestBody, RequestBodyBuilder};
use utoipa::openapi::schema::{
    AdditionalProperties, KnownFormat, ObjectBuilder, OneOfBuilder, SchemaFormat, Type,
};
use utoipa::openapi::security::{
    ApiKey, ApiKeyValue, Http, HttpAuthScheme, SecurityRequirement, SecurityScheme,
};
use utoipa::openapi::{
    ContentBuilder, Header, InfoBuilder, OpenApi, OpenApiBuilder, PathItem, RefOr, Required,
    Response, ResponseBuilder, Schema, Server,
};

use self::operations::{Body, Caller, Kind, OPERATIONS, Operation, Parameter};
use self::schemas::{components, key_id, reference, text};
use super::shared::json;
use crate::model::EventKind;

pub(super) use self::operations::Group;

/// The path of the document in the router.
pub(super) const PATH: &str = "/openapi.json";

const ABOUT: &str = "Routes by which agents sign up, look at themselves, mint narrower keys, open sessions and end them.\n\n\
    A refusal is a problem document (RFC 9457), whose `error` is a stable code. \
    Another method on a path is answered with 405 `method_not_allowed`.";

/// The committed document, for its examples: they are recorded answers, which code cannot make.
static COMMITTED: LazyLock<Option<OpenApi>> =
    LazyLock::new(|| serde_json::from_str(include_str!("../../../openapi.json")).ok());

/// Returns the OpenAPI document of all routes of this module, under the paths that they have in
/// their own router.
///
/// The application may merge it into its own document, and
/// [`SelfServe::openapi`](super::SelfServe::openapi) serves that of the routes which are switched on.
///
/// ```
/// let document = agentkey::routes::openapi();
/// assert!(document.paths.paths.contains_key("/keys/{id}/rotate"));
/// ```
pub fn openapi() -> OpenApi {
    document(|_| true)
}

/// Returns the document of these groups of routes.
pub(super) fn document(has: impl Fn(Group) -> bool) -> OpenApi {
    let operations = OPERATIONS.iter().filter(|operation| has(operation.group));
    let paths = operations.fold(PathsBuilder::new(), |paths, operation| {
        paths.path(operation.path, PathItem::new(operation.method.clone(), described(operation)))
    });
    let mut components = components();
    components.security_schemes.extend([
        ("bearer".to_owned(), SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer)).into()),
        (
            "header".to_owned(),
            SecurityScheme::ApiKey(ApiKey::Header(ApiKeyValue::new("X-Api-Key"))).into(),
        ),
    ]);
    let info = InfoBuilder::new()
        .title("agentkey: self-serve routes")
        .version(env!("CARGO_PKG_VERSION"))
        .description(Some(ABOUT));
    OpenApiBuilder::new().info(info.build()).paths(paths).components(Some(components)).build()
}

/// Returns the route of a document. It says under which path its routes are mounted.
pub(super) fn route(document: OpenApi) -> Router {
    let answer = move |OriginalUri(uri): OriginalUri| {
        let mut document = document.clone();
        let mounted = uri.path().strip_suffix(PATH).unwrap_or_default();
        document.servers = Some(vec![Server::new(if mounted.is_empty() { "/" } else { mounted })]);
        std::future::ready(json(StatusCode::OK, &document))
    };
    Router::new().route(PATH, get(answer))
}

fn described(operation: &Operation) -> OperationBuilder {
    let described = OperationBuilder::new()
        .operation_id(Some(operation.id))
        .summary(Some(operation.summary))
        .parameters(Some(operation.parameters.iter().map(parameter)))
        .request_body(body(&operation.body));
    let described = match operation.caller {
        Caller::Key => ["bearer", "header"].iter().fold(described, |described, scheme| {
            described.security(SecurityRequirement::new(*scheme, [""; 0]))
        }),
        Caller::Server => described
            .description(Some("The service authenticates the calling server in its own way.")),
        Caller::Anybody => described,
    };
    let success = [(operation.success, answer(operation))];
    let refusals = operation.refusals.iter().map(|status| (*status, refusal(operation, *status)));
    success.into_iter().chain(refusals).fold(described, |described, (status, response)| {
        described.response(status.to_string(), response)
    })
}

fn parameter(parameter: &Parameter) -> ParameterBuilder {
    let schema = match parameter.kind {
        Kind::KeyId => key_id(),
        #[cfg(feature = "sessions")]
        Kind::SessionId => schemas::session_id(),
        Kind::Text => ObjectBuilder::new().schema_type(Type::String),
        Kind::Instant => ObjectBuilder::new()
            .schema_type(Type::String)
            .format(Some(SchemaFormat::KnownFormat(KnownFormat::DateTime))),
        Kind::Flag => ObjectBuilder::new().schema_type(Type::Boolean),
        Kind::Number { min, max } => {
            ObjectBuilder::new().schema_type(Type::Integer).minimum(Some(min)).maximum(Some(max))
        }
        Kind::Event => ObjectBuilder::new()
            .schema_type(Type::String)
            .enum_values(Some(EventKind::ALL.map(EventKind::as_str))),
        Kind::OneOf(names) => {
            ObjectBuilder::new().schema_type(Type::String).enum_values(Some(names.to_vec()))
        }
    };
    let is_in_path = !matches!(
        parameter.kind,
        Kind::Text
            | Kind::Instant
            | Kind::Flag
            | Kind::Number { .. }
            | Kind::OneOf(_)
            | Kind::Event
    );
    let place = if is_in_path { ParameterIn::Path } else { ParameterIn::Query };
    ParameterBuilder::new()
        .name(parameter.name)
        .parameter_in(place)
        .required(if is_in_path { Required::True } else { Required::False })
        .description(Some(parameter.description))
        .schema(Some(schema))
}

fn body(body: &Body) -> Option<RequestBody> {
    let (media_type, schema, is_required) = match body {
        Body::Nothing => return None,
        Body::Empty => {
            let nothing =
                ObjectBuilder::new()
                    .additional_properties(Some(AdditionalProperties::<Schema>::FreeForm(false)));
            ("application/json", Schema::from(nothing).into(), Required::False)
        }
        Body::Json(name) => ("application/json", reference(name), Required::False),
        Body::TokenForm => {
            let form = ObjectBuilder::new()
                .property("token", text("The token."))
                .required("token")
                .property("token_type_hint", text("Is not looked at."));
            ("application/x-www-form-urlencoded", Schema::from(form).into(), Required::True)
        }
    };
    let content = ContentBuilder::new().schema(Some(schema)).build();
    Some(RequestBodyBuilder::new().content(media_type, content).required(Some(is_required)).build())
}

fn answer(operation: &Operation) -> Response {
    let schema = match operation.answers {
        [one] => reference(one),
        several => {
            let one_of = several.iter().map(|name| reference(name));
            Schema::from(one_of.fold(OneOfBuilder::new(), OneOfBuilder::item)).into()
        }
    };
    let said = if operation.success == 201 { "It is made." } else { "It is done." };
    response(said, "application/json", schema, operation, operation.success)
        .header("Cache-Control", header("Whether a cache may keep the answer."))
        .build()
}

fn refusal(operation: &Operation, status: u16) -> Response {
    let said = match status {
        400 => "The request is not valid. `errors` names every field that is wrong.",
        401 => "The credential is missing, or is not in force.",
        403 => {
            "The caller may not do this, or not from its address. `errors` names what goes beyond the caller."
        }
        404 => "There is no such thing, or it is not the caller's.",
        409 => "The key, or an ancestor of it, is revoked or has expired.",
        413 => "The body has more than 64 KB.",
        415 => "The body is of another media type.",
        429 => "There were too many requests.",
        _ => "The store does not answer. What was asked may or may not have taken effect.",
    };
    let refusal =
        response(said, "application/problem+json", reference("Problem"), operation, status)
            .header("Cache-Control", header("No cache keeps a refusal."));
    match status {
        401 => refusal.header("WWW-Authenticate", header("The challenge of RFC 6750.")),
        429 | 503 => {
            let seconds = Schema::from(ObjectBuilder::new().schema_type(Type::Integer));
            refusal.header("Retry-After", Header::new(seconds))
        }
        _ => refusal,
    }
    .build()
}

fn response(
    said: &str,
    media_type: &str,
    schema: RefOr<Schema>,
    operation: &Operation,
    status: u16,
) -> ResponseBuilder {
    let example = example(operation, status, media_type).cloned();
    let content = ContentBuilder::new().schema(Some(schema)).example(example).build();
    ResponseBuilder::new().description(said).content(media_type, content)
}

fn header(description: &str) -> Header {
    Header::new(Schema::from(text(description)))
}

/// Returns the recorded answer with this status.
fn example(operation: &Operation, status: u16, media_type: &str) -> Option<&'static Value> {
    let paths = &COMMITTED.as_ref()?.paths;
    let committed = paths.get_path_operation(operation.path, operation.method.clone())?;
    let RefOr::T(response) = committed.responses.responses.get(&status.to_string())? else {
        return None;
    };
    let RefOr::T(content) = response.content.get(media_type)? else { return None };
    content.example.as_ref()
}
