//! The schemas of the document: those of [`wire`], and those of the values that they have.

use utoipa::openapi::schema::{
    AdditionalProperties, ArrayBuilder, KnownFormat, ObjectBuilder, SchemaFormat, SchemaType, Type,
};
use utoipa::openapi::{Components, ComponentsBuilder, Ref, RefOr, Schema};
use utoipa::{PartialSchema, ToSchema};

use crate::model::{
    Actor, Amount, Cidrs, EntryId, EntryKind, EventKind, FieldError, KeyId, Labels, Metadata,
    Period, RateLimit, ScopeSet, Subject, Validity,
};
use crate::routes::wire::{self, Usd};

/// Members that may be `null` where others are left out: it says something else than leaving them out.
const NULLABLE: &[(&str, &str)] = &[
    ("Actor", "name"),
    ("KeyRequest", "allowed_cidrs"),
    ("KeyRequest", "budgets"),
    ("KeyRequest", "expires_at"),
    ("KeyRequest", "metadata"),
    ("KeyRequest", "rate_limit"),
];

/// Answers that leave members out. The others have every member, and `null` where there is no value.
const SPARSE: &[&str] = &["Actor", "Introspection", "ResourceMetadata", "Problem"];

/// Returns the schemas of all requests and answers.
pub(super) fn components() -> Components {
    let mut schemas = Vec::new();
    add::<wire::SignupRequest>(&mut schemas);
    add::<wire::KeyRequest>(&mut schemas);
    add::<wire::RotateRequest>(&mut schemas);
    add::<wire::RevokeRequest>(&mut schemas);
    add::<wire::CreatedKey>(&mut schemas);
    add::<wire::KeyPage>(&mut schemas);
    add::<wire::EntryPage>(&mut schemas);
    add::<wire::UsagePage>(&mut schemas);
    add::<wire::EventPage>(&mut schemas);
    add::<wire::Introspection>(&mut schemas);
    add::<wire::ResourceMetadata>(&mut schemas);
    add::<wire::Problem>(&mut schemas);
    #[cfg(feature = "sessions")]
    {
        add::<wire::SessionRequest>(&mut schemas);
        add::<wire::OpenedSession>(&mut schemas);
        add::<wire::Session>(&mut schemas);
    }
    let schemas = schemas.into_iter().map(|(name, schema)| {
        let schema = members(&name, schema);
        (name, schema)
    });
    ComponentsBuilder::new().schemas_from_iter(schemas).build()
}

fn add<T: ToSchema>(schemas: &mut Vec<(String, RefOr<Schema>)>) {
    schemas.push((T::name().into_owned(), T::schema()));
    T::schemas(schemas);
}

/// Says which members have to be there, and which may be `null`. The types do not say it: they have
/// an `Option` for both.
fn members(name: &str, schema: RefOr<Schema>) -> RefOr<Schema> {
    let RefOr::T(Schema::Object(mut object)) = schema else { return schema };
    if name.ends_with("Request") || SPARSE.contains(&name) {
        for (member, schema) in object.properties.iter_mut() {
            if !NULLABLE.contains(&(name, member)) {
                *schema = without_null(schema.clone());
            }
        }
    } else {
        object.required = object.properties.keys().cloned().collect();
    }
    Schema::Object(object).into()
}

fn without_null(schema: RefOr<Schema>) -> RefOr<Schema> {
    let not_null = |types: SchemaType| match types {
        SchemaType::Array(types) => {
            let mut types = types.into_iter().filter(|it| *it != Type::Null);
            types.next().map_or(SchemaType::AnyValue, SchemaType::Type)
        }
        one => one,
    };
    match schema {
        RefOr::T(Schema::OneOf(one_of)) if one_of.items.len() == 2 => {
            let mut items = one_of.items.into_iter();
            let value = items.find(|item| !matches!(item, RefOr::T(Schema::Object(it)) if it.schema_type == SchemaType::Type(Type::Null)));
            match (value, one_of.description) {
                (Some(RefOr::Ref(mut value)), Some(description)) => {
                    value.description = description;
                    value.into()
                }
                (value, _) => value.unwrap_or_default(),
            }
        }
        RefOr::T(Schema::Object(mut object)) => {
            object.schema_type = not_null(object.schema_type);
            Schema::Object(object).into()
        }
        RefOr::T(Schema::Array(mut array)) => {
            array.schema_type = not_null(array.schema_type);
            Schema::Array(array).into()
        }
        other => other,
    }
}

/// Implements the traits of utoipa for values of the model, whose JSON is written by hand.
macro_rules! schema {
    ($type:ty, $schema:expr) => {
        impl PartialSchema for $type {
            fn schema() -> RefOr<Schema> {
                Schema::from($schema).into()
            }
        }

        impl ToSchema for $type {}
    };
}

schema!(
    Amount,
    number_or_text(
        "An amount in cents, with at most four decimals. One that no double holds exactly is a text."
    )
);
schema!(
    Usd,
    number_or_text(
        "An amount in units of the currency, with at most six decimals. One that no double holds exactly is a text."
    )
);
schema!(EntryId, text("The id of an entry.").format(Some(SchemaFormat::Custom("uuid".to_owned()))));
schema!(
    EntryKind,
    text("The kind of an entry.")
        .enum_values(Some(["settle", "pay", "refund", "expiry", "opening", "adjust"]))
);
schema!(
    EventKind,
    text("What an event is about.").enum_values(Some(EventKind::ALL.map(EventKind::as_str)))
);
schema!(
    Actor,
    ObjectBuilder::new()
        .description(Some("Who acted: `type`, and who of that type."))
        .property(
            "type",
            text("What it is.").enum_values(Some([
                "application",
                "ledger",
                "principal",
                "signup",
                "key",
                "session",
                "subject",
            ]))
        )
        .required("type")
        .property("id", KeyId::schema())
        .property(
            "name",
            text("The name of a login; `null` where the application gave none.")
                .schema_type(SchemaType::Array(vec![Type::String, Type::Null]))
        )
        .property("issuer", text("The issuer of a subject."))
        .property("sub", text("The id of a subject."))
);
schema!(
    FieldError,
    ObjectBuilder::new()
        .description(Some("A field that is wrong."))
        .property("field", text("The name of the field; empty for the request as a whole."))
        .required("field")
        .property("detail", text("What is wrong, and what is accepted."))
        .required("detail")
);
schema!(
    Subject,
    ObjectBuilder::new()
        .description(Some("An identity of another issuer."))
        .property("issuer", text("The issuer, as it names itself."))
        .required("issuer")
        .property("sub", text("The id that the issuer gave."))
        .required("sub")
);
schema!(
    Cidrs,
    ArrayBuilder::new()
        .items(text("A range such as `10.0.0.0/8`, or an address."))
        .description(Some("Ranges of addresses."))
);
schema!(
    RateLimit,
    ["requests", "window_seconds", "burst", "in_flight"].into_iter().fold(
        ObjectBuilder::new()
            .description(Some(
                "`requests` in each `window_seconds`, of which `burst` at once; and how many requests may run at once."
            ))
            .additional_properties(Some(AdditionalProperties::<Schema>::FreeForm(false))),
        |limit, name| limit.property(name, number_or_null())
    )
);
schema!(KeyId, key_id());
schema!(
    Labels,
    ObjectBuilder::new()
        .description(Some("Labels by their names."))
        .additional_properties(Some(Schema::from(ObjectBuilder::new().schema_type(Type::String))))
);
schema!(Metadata, ObjectBuilder::new().description(Some("A JSON object of at most 4 KB.")));
schema!(
    Period,
    text("The period of a limit. `day`, `week` and `month` begin when the key is made.")
        .enum_values(Some([
            "lifetime",
            "day",
            "week",
            "month",
            "calendar_day",
            "calendar_week",
            "calendar_month"
        ]))
);
schema!(
    ScopeSet,
    ArrayBuilder::new()
        .schema_type(SchemaType::Array(vec![Type::Array, Type::Null]))
        .items(ObjectBuilder::new().schema_type(Type::String))
        .description(Some("Scopes. `null` is unrestricted, and `[]` is none."))
);
schema!(
    Validity,
    text("A whole number and a unit: `m`inutes, `h`ours, `d`ays, `w`eeks, `mo`nths or `y`ears.")
        .pattern(Some("^[0-9]+(m|h|d|w|mo|y)$"))
);
#[cfg(feature = "sessions")]
schema!(crate::model::SessionId, session_id());

pub(super) fn key_id() -> ObjectBuilder {
    ObjectBuilder::new()
        .schema_type(Type::Integer)
        .format(Some(SchemaFormat::KnownFormat(KnownFormat::Int64)))
        .description(Some("The id of a key."))
}

#[cfg(feature = "sessions")]
pub(super) fn session_id() -> ObjectBuilder {
    text("The id of a session.").pattern(Some("^ses_[1-9][0-9]*$"))
}

pub(super) fn text(description: &str) -> ObjectBuilder {
    ObjectBuilder::new().schema_type(Type::String).description(Some(description))
}

fn number_or_null() -> ObjectBuilder {
    ObjectBuilder::new()
        .schema_type(SchemaType::Array(vec![Type::Integer, Type::Null]))
        .minimum(Some(0))
}

fn number_or_text(description: &str) -> ObjectBuilder {
    ObjectBuilder::new()
        .schema_type(SchemaType::Array(vec![Type::Number, Type::String]))
        .description(Some(description))
}

/// Returns a reference to a schema of [`components`].
pub(super) fn reference(name: &str) -> RefOr<Schema> {
    Ref::from_schema_name(name).into()
}
