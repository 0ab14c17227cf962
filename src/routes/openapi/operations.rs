//! The operations of the document: what each takes, and each status that it can answer with.

use utoipa::openapi::HttpMethod::{self, Delete, Get, Patch, Post};

/// The routes that the host switches on together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::routes) enum Group {
    Me,
    Mint,
    Manage,
    #[cfg(feature = "sessions")]
    Sessions,
    Signup,
    Introspection,
    Resource,
}

pub(super) struct Operation {
    pub(super) group: Group,
    pub(super) method: HttpMethod,
    pub(super) path: &'static str,
    /// Its name for generated clients.
    pub(super) id: &'static str,
    pub(super) summary: &'static str,
    pub(super) caller: Caller,
    pub(super) parameters: &'static [Parameter],
    pub(super) body: Body,
    pub(super) success: u16,
    /// The schemas of the successful answer. One of them is it.
    pub(super) answers: &'static [&'static str],
    /// Every status of a refusal.
    pub(super) refusals: &'static [u16],
}

/// Who calls an operation.
pub(super) enum Caller {
    Anybody,
    /// A key, or a login of the application.
    Key,
    /// A server that the application authenticates in its own way.
    Server,
}

pub(super) enum Body {
    Nothing,
    /// A JSON object without members. It may be left out.
    Empty,
    /// A JSON object with this schema. It may be left out.
    Json(&'static str),
    /// A form with the member `token`.
    TokenForm,
}

pub(super) struct Parameter {
    pub(super) name: &'static str,
    pub(super) description: &'static str,
    pub(super) kind: Kind,
}

pub(super) enum Kind {
    /// The id of a key in the path.
    KeyId,
    /// The id of a session in the path.
    #[cfg(feature = "sessions")]
    SessionId,
    Text,
    Instant,
    Flag,
    Number {
        min: u32,
        max: u32,
    },
    OneOf(&'static [&'static str]),
    /// The name of a kind of event.
    Event,
}

const fn of_query(name: &'static str, kind: Kind, description: &'static str) -> Parameter {
    Parameter { name, description, kind }
}

const KEY_ID: Parameter = of_query("id", Kind::KeyId, "The id of the key.");
const KEY: &[Parameter] = &[KEY_ID];
const KIND: Parameter = of_query("kind", Kind::Event, "What the events are about.");
const SINCE: Parameter = of_query("since", Kind::Instant, "The first instant.");
const UNTIL: Parameter = of_query("until", Kind::Instant, "The instant after the last.");
#[cfg(feature = "sessions")]
const SESSION: &[Parameter] = &[of_query("id", Kind::SessionId, "The id of the session.")];
const LIMIT: Parameter = of_query(
    "limit",
    Kind::Number { min: 1, max: 200 },
    "The most items of the page; 50 by default.",
);
const CURSOR: Parameter =
    of_query("cursor", Kind::Text, "The `next_cursor` of the page before, for the next page.");

pub(super) const OPERATIONS: &[Operation] = &[
    Operation {
        group: Group::Signup,
        method: Post,
        path: "/signup",
        id: "signUp",
        summary: "Makes a key for a client that has none.",
        caller: Caller::Anybody,
        parameters: &[],
        body: Body::Json("SignupRequest"),
        success: 201,
        answers: &["CreatedKey"],
        refusals: &[400, 403, 413, 415, 429, 503],
    },
    Operation {
        group: Group::Me,
        method: Get,
        path: "/keys/me",
        id: "showOwnKey",
        summary: "Shows the caller its own key: what it may do, what is left and until when.",
        caller: Caller::Key,
        parameters: &[],
        body: Body::Nothing,
        success: 200,
        answers: &["Key"],
        refusals: &[400, 401, 403, 404, 429, 503],
    },
    Operation {
        group: Group::Me,
        method: Get,
        path: "/keys/me/usage",
        id: "listUsage",
        summary: "Lists what the caller was charged, or sums of it.",
        caller: Caller::Key,
        parameters: &[
            SINCE,
            UNTIL,
            of_query("subtree", Kind::Flag, "Whether descendants count too; `false` by default."),
            of_query(
                "group_by",
                Kind::OneOf(&["hour", "day", "month", "key", "label"]),
                "By what to sum. Without it, entries are listed.",
            ),
            of_query(
                "label",
                Kind::Text,
                "The name of the label for `group_by=label`, and only there.",
            ),
            LIMIT,
            CURSOR,
        ],
        body: Body::Nothing,
        success: 200,
        answers: &["EntryPage", "UsagePage"],
        refusals: &[400, 401, 403, 429, 503],
    },
    Operation {
        group: Group::Me,
        method: Get,
        path: "/keys/me/events",
        id: "listOwnEvents",
        summary: "Lists what was done to the caller and its descendants.",
        caller: Caller::Key,
        parameters: &[KIND, SINCE, UNTIL, LIMIT, CURSOR],
        body: Body::Nothing,
        success: 200,
        answers: &["EventPage"],
        refusals: &[400, 401, 403, 429, 503],
    },
    Operation {
        group: Group::Mint,
        method: Post,
        path: "/keys",
        id: "mintKey",
        summary: "Makes a narrower key, as a child of the caller.",
        caller: Caller::Key,
        parameters: &[],
        body: Body::Json("KeyRequest"),
        success: 201,
        answers: &["CreatedKey"],
        refusals: &[400, 401, 403, 413, 415, 429, 503],
    },
    Operation {
        group: Group::Manage,
        method: Get,
        path: "/keys",
        id: "listKeys",
        summary: "Lists the keys that the caller may see.",
        caller: Caller::Key,
        parameters: &[
            of_query("name", Kind::Text, "A part of the name."),
            of_query(
                "state",
                Kind::OneOf(&["active", "disabled", "expired", "revoked"]),
                "The state of the keys.",
            ),
            LIMIT,
            CURSOR,
        ],
        body: Body::Nothing,
        success: 200,
        answers: &["KeyPage"],
        refusals: &[400, 401, 403, 429, 503],
    },
    Operation {
        group: Group::Manage,
        method: Get,
        path: "/keys/{id}",
        id: "showKey",
        summary: "Shows a key.",
        caller: Caller::Key,
        parameters: KEY,
        body: Body::Nothing,
        success: 200,
        answers: &["Key"],
        refusals: &[400, 401, 403, 404, 429, 503],
    },
    Operation {
        group: Group::Manage,
        method: Get,
        path: "/keys/{id}/events",
        id: "listEvents",
        summary: "Lists what was done to a key and its descendants.",
        caller: Caller::Key,
        parameters: &[KEY_ID, KIND, SINCE, UNTIL, LIMIT, CURSOR],
        body: Body::Nothing,
        success: 200,
        answers: &["EventPage"],
        refusals: &[400, 401, 403, 404, 429, 503],
    },
    Operation {
        group: Group::Manage,
        method: Patch,
        path: "/keys/{id}",
        id: "narrowKey",
        summary: "Makes a key narrower.",
        caller: Caller::Key,
        parameters: KEY,
        body: Body::Json("KeyRequest"),
        success: 200,
        answers: &["Key"],
        refusals: &[400, 401, 403, 404, 409, 413, 415, 429, 503],
    },
    Operation {
        group: Group::Manage,
        method: Delete,
        path: "/keys/{id}",
        id: "revokeKey",
        summary: "Revokes a key and its descendants, for ever.",
        caller: Caller::Key,
        parameters: KEY,
        body: Body::Json("RevokeRequest"),
        success: 200,
        answers: &["Key"],
        refusals: &[400, 401, 403, 404, 413, 415, 429, 503],
    },
    Operation {
        group: Group::Manage,
        method: Post,
        path: "/keys/{id}/rotate",
        id: "rotateKey",
        summary: "Gives a key another token.",
        caller: Caller::Key,
        parameters: KEY,
        body: Body::Json("RotateRequest"),
        success: 200,
        answers: &["CreatedKey"],
        refusals: &[400, 401, 403, 404, 409, 413, 415, 429, 503],
    },
    Operation {
        group: Group::Manage,
        method: Post,
        path: "/keys/{id}/end-grace",
        id: "endGrace",
        summary: "Ends the tokens of a key that were rotated away and are still in their grace.",
        caller: Caller::Key,
        parameters: KEY,
        body: Body::Empty,
        success: 200,
        answers: &["Key"],
        refusals: &[400, 401, 403, 404, 413, 415, 429, 503],
    },
    Operation {
        group: Group::Manage,
        method: Post,
        path: "/keys/{id}/disable",
        id: "disableKey",
        summary: "Pauses a key and its descendants.",
        caller: Caller::Key,
        parameters: KEY,
        body: Body::Empty,
        success: 200,
        answers: &["Key"],
        refusals: &[400, 401, 403, 404, 409, 413, 415, 429, 503],
    },
    Operation {
        group: Group::Manage,
        method: Post,
        path: "/keys/{id}/enable",
        id: "enableKey",
        summary: "Ends the pause of a key.",
        caller: Caller::Key,
        parameters: KEY,
        body: Body::Empty,
        success: 200,
        answers: &["Key"],
        refusals: &[400, 401, 403, 404, 409, 413, 415, 429, 503],
    },
    #[cfg(feature = "sessions")]
    Operation {
        group: Group::Sessions,
        method: Post,
        path: "/sessions",
        id: "openSession",
        summary: "Opens a session of the caller.",
        caller: Caller::Key,
        parameters: &[],
        body: Body::Json("SessionRequest"),
        success: 201,
        answers: &["OpenedSession"],
        refusals: &[400, 401, 403, 404, 413, 415, 429, 503],
    },
    #[cfg(feature = "sessions")]
    Operation {
        group: Group::Sessions,
        method: Delete,
        path: "/sessions/{id}",
        id: "endSession",
        summary: "Ends a session, for ever.",
        caller: Caller::Key,
        parameters: SESSION,
        body: Body::Json("RevokeRequest"),
        success: 200,
        answers: &["Session"],
        refusals: &[400, 401, 403, 404, 413, 415, 429, 503],
    },
    #[cfg(feature = "sessions")]
    Operation {
        group: Group::Sessions,
        method: Get,
        path: "/me",
        id: "showOwnSession",
        summary: "Shows a session itself: what it may do, what is left and until when.",
        caller: Caller::Key,
        parameters: &[],
        body: Body::Nothing,
        success: 200,
        answers: &["Session"],
        refusals: &[400, 401, 403, 404, 429, 503],
    },
    Operation {
        group: Group::Introspection,
        method: Post,
        path: "/introspect",
        id: "introspectToken",
        summary: "Says what a token may do, to a server that the service knows (RFC 7662).",
        caller: Caller::Server,
        parameters: &[],
        body: Body::TokenForm,
        success: 200,
        answers: &["Introspection"],
        refusals: &[400, 401, 413, 415, 503],
    },
    Operation {
        group: Group::Resource,
        method: Get,
        path: "/.well-known/oauth-protected-resource",
        id: "showResource",
        summary: "Shows the metadata of the resource (RFC 9728).",
        caller: Caller::Anybody,
        parameters: &[],
        body: Body::Nothing,
        success: 200,
        answers: &["ResourceMetadata"],
        refusals: &[],
    },
];
