//! The columns and indexes of a table of the application, and whether keys can be stored in it.

use std::collections::BTreeMap;
use std::sync::Arc;

use sqlx::Row;

use super::record::{RESTART, Switches};
use super::switch::{Guess, SwitchedOff, guess};
use super::{Adoption, HASHES, KeyColumn};
use crate::store::postgres::connection::Statements;
use crate::store::postgres::error::Result;
use crate::store::postgres::names::{Ident, TableName, literal};
use crate::store::postgres::schema::{
    IdType, KeyColumns, LimitUnit, NullDefaults, Switch, TimeColumn,
};

/// The column that has the prefix and the start of a token in other programs.
const KEY_PREFIX: &str = "key_prefix";

/// A table as the database describes it.
pub(super) struct Shape {
    /// What it is instead of an ordinary table, if it is not one.
    kind: Option<&'static str>,
    columns: Vec<Column>,
    indexes: Vec<Index>,
    /// Whether row security hides rows from this role.
    pub(super) is_filtered: bool,
}

struct Column {
    name: String,
    number: i16,
    /// The internal name of the type; for a domain, that of its base type.
    type_name: String,
    /// The type as it was declared.
    type_shown: String,
    /// The length of `varchar(n)` and `char(n)`.
    length: Option<usize>,
    is_generated: bool,
    /// Whether its collation is not deterministic, so that different texts may be equal.
    is_nondeterministic: bool,
}

struct Index {
    first: i16,
    /// Whether a value of the first column occurs at most once.
    is_unique: bool,
    is_partial: bool,
}

/// Reads the description of a table. Returns a problem if there is no such table.
pub(super) async fn inspect(
    statements: &mut Statements<'_>,
    table: &TableName,
) -> Result<Result<Shape, String>> {
    let found = sqlx::query(include_str!("../sql/adopt/table.sql"));
    let found = found.bind(table.schema.to_owned()).bind(table.name.to_owned());
    let found = statements.fetch(found).await?;
    let Some(found) = found.first() else {
        return Ok(Err(missing_table(statements, table).await?));
    };
    let kind = match found.try_get::<&str, _>(1)? {
        "r" => None,
        "p" => Some("a partitioned table, in which a hash cannot be unique"),
        "v" | "m" => Some("a view"),
        "f" => Some("a foreign table"),
        _ => Some("no table"),
    };
    let oid: i64 = found.try_get(0)?;
    let columns = sqlx::query(include_str!("../sql/adopt/columns.sql")).bind(oid);
    let columns = statements.fetch(columns).await?;
    let indexes = sqlx::query(include_str!("../sql/adopt/indexes.sql")).bind(oid);
    let indexes = statements.fetch(indexes).await?;
    Ok(Ok(Shape {
        kind,
        columns: columns.iter().map(column).collect::<Result<_>>()?,
        indexes: indexes.iter().map(index).collect::<Result<_>>()?,
        is_filtered: found.try_get(2)?,
    }))
}

fn column(row: &sqlx::postgres::PgRow) -> Result<Column> {
    let type_name: String = row.try_get(2)?;
    let modifier: i32 = row.try_get(4)?;
    let has_length = type_name == "varchar" || type_name == "bpchar";
    Ok(Column {
        name: row.try_get(0)?,
        number: row.try_get(1)?,
        // PostgreSQL adds a header of four bytes.
        length: usize::try_from(modifier.saturating_sub(4)).ok().filter(|_| has_length),
        type_name,
        type_shown: row.try_get(3)?,
        is_generated: row.try_get(5)?,
        is_nondeterministic: row.try_get(6)?,
    })
}

fn index(row: &sqlx::postgres::PgRow) -> Result<Index> {
    Ok(Index { first: row.try_get(0)?, is_unique: row.try_get(1)?, is_partial: row.try_get(2)? })
}

async fn missing_table(statements: &mut Statements<'_>, table: &TableName) -> Result<String> {
    let found = sqlx::query(include_str!("../sql/adopt/elsewhere.sql")).bind(table.name.to_owned());
    let found = statements.fetch(found).await?;
    let mut text = "there is no such table in this database".to_owned();
    if let Some(row) = found.first() {
        let schema: &str = row.try_get(0)?;
        text.push_str(&format!(
            "; there is one in the schema {schema:?}: `.table({:?})`",
            format!("{schema}.{}", table.name)
        ));
    }
    Ok(text)
}

impl Shape {
    fn column(&self, name: &str) -> Option<&Column> {
        self.columns.iter().find(|column| column.name == name)
    }

    fn has(&self, name: &str) -> bool {
        self.column(name).is_some()
    }

    pub(super) fn is_indexed(&self, name: &str, may_be_partial: bool) -> bool {
        self.column(name).is_some_and(|column| {
            self.indexes
                .iter()
                .any(|index| index.first == column.number && (may_be_partial || !index.is_partial))
        })
    }

    fn is_unique(&self, column: &Column) -> bool {
        let mut indexes = self.indexes.iter();
        indexes.any(|index| index.first == column.number && index.is_unique && !index.is_partial)
    }

    /// Chooses the column of each field, by the adoption and the existing columns. Also returns what is wrong with the
    /// choice.
    pub(super) fn choose(&self, adoption: &Adoption) -> (BTreeMap<KeyColumn, String>, Vec<String>) {
        let mut problems = Vec::new();
        let is_npm = self.has("budget_cents");
        let says_limit = [KeyColumn::LimitMicros, KeyColumn::LimitCents]
            .map(|limit| adoption.columns.contains_key(&limit));
        match says_limit {
            [true, true] => problems.push("a limit is in LimitMicros or in LimitCents, not in both".to_owned()),
            [false, false] if is_npm && self.has("limit_micros") => problems.push(
                "it has both \"budget_cents\" and \"limit_micros\": say which of them is the limit, with \
                 `.column(KeyColumn::LimitCents, …)` or `.column(KeyColumn::LimitMicros, …)`"
                    .to_owned(),
            ),
            _ => {}
        }
        let mut columns = BTreeMap::new();
        for field in KeyColumn::ALL {
            if let Some(name) = adoption.columns.get(&field) {
                if let Err(error) = Ident::new(name) {
                    problems.push(format!("{field}: {error}"));
                    continue;
                }
                columns.insert(field, name.clone());
                continue;
            }
            let npm_name = field.spec().npm_column.filter(|name| is_npm && self.has(name));
            let name = match field {
                KeyColumn::LimitCents if says_limit[0] => None,
                KeyColumn::LimitMicros if says_limit[1] || is_npm => None,
                KeyColumn::Start if self.has(KEY_PREFIX) && !self.has("start") => Some(KEY_PREFIX),
                _ => npm_name.or(field.spec().column),
            };
            if let Some(name) = name {
                columns.insert(field, name.to_owned());
            }
        }
        (columns, problems)
    }

    /// Chooses the columns that switch keys off, of those that are no fields. Also returns what is wrong with the choice.
    pub(super) fn choose_switches(
        &self,
        adoption: &Adoption,
        columns: &BTreeMap<KeyColumn, String>,
    ) -> (Switches, Vec<String>) {
        let (mut switches, mut problems) = (Switches::new(), Vec::new());
        for name in adoption.switches.keys().filter(|name| !self.has(name)) {
            problems.push(format!("it has no column {name:?} to switch keys off"));
        }
        let fields: Vec<_> = columns.values().collect();
        for column in self.columns.iter().filter(|column| !fields.contains(&&column.name)) {
            let Column { name, type_name, type_shown, .. } = column;
            let off = match (adoption.switches.get(name), guess(name, type_name)) {
                (Some(Some(off)), _) => *off,
                (None, Guess::Switch(off)) => off,
                (Some(None), _) | (None, Guess::Other) => continue,
                (None, Guess::Unclear) => {
                    problems.push(format!(
                        "the column {name:?} ({type_shown}) may switch keys off, and agentkey cannot tell when: add a \
                         column that says so, such as \"is_off boolean GENERATED ALWAYS AS (…) STORED\", and name it with \
                         `.switch(\"is_off\", SwitchedOff::WhenTrue)`; then, or if it switches no key off, say \
                         `.ignore({name:?})`"
                    ));
                    continue;
                }
            };
            match off.fits(type_name) {
                true => drop(switches.insert(name.clone(), off)),
                false => problems.push(format!(
                    "the column {name:?} is {type_shown}, which is neither true nor false: name a boolean or integer \
                     column with `.switch(…)`, or say SwitchedOff::WhenSet"
                )),
            }
        }
        (switches, problems)
    }

    /// Returns the problems of columns that switched keys off when the table was adopted.
    pub(super) fn switch_problems(&self, switches: &Switches, adoption_table: &str) -> Vec<String> {
        let mut problems = Vec::new();
        for (name, off) in switches {
            if !self.column(name).is_some_and(|column| off.fits(&column.type_name)) {
                problems.push(format!(
                    "it has no column {name:?} any more, which switched keys off: give the column back, or, if it is not \
                     needed, run: UPDATE {adoption_table} SET switches = switches - {}; {RESTART}",
                    literal(name),
                ));
            }
        }
        problems
    }

    /// Returns all problems of these columns, each with its remedy. `recorded` is the table of the record, if there is
    /// one. A missing column that is recorded was dropped, and is not added again without its values.
    pub(super) fn problems(
        &self,
        columns: &BTreeMap<KeyColumn, String>,
        recorded: Option<&str>,
    ) -> Vec<String> {
        let mut problems: Vec<_> = self
            .kind
            .map(|kind| format!("it is {kind}: name the table that has the keys"))
            .into_iter()
            .collect();
        for (field, name) in columns {
            let map = format!("`.column(KeyColumn::{field}, …)`");
            if let Some((other, _)) =
                columns.iter().find(|(other, same)| *other < field && *same == name)
            {
                problems.push(format!("the column {name:?} cannot be both {other} and {field}"));
            }
            let Some(column) = self.column(name) else {
                match recorded {
                    Some(adoption_table) => problems.push(format!(
                        "it has no column {name:?} for {field}, which it was adopted with: give the column its name \
                         back, or, once its values are in another one, run: UPDATE {adoption_table} SET columns = columns || \
                         '{{\"{}\": \"the other one\"}}'; {RESTART}",
                        field.spec().name,
                    )),
                    None if field.spec().added_type.is_none() => problems
                        .push(format!("it has no column {name:?} for {field}: name its column with {map}")),
                    None => {}
                }
                continue;
            };
            let shown = &column.type_shown;
            if !field.spec().types.names.contains(&&*column.type_name) {
                let needed = field.spec().types.shown;
                let remedy = match field.spec().added_type {
                    Some(_) if field.is_restricting() => {
                        "change its type: a column added in its place would be NULL for the existing keys, and would lift \
                         their restrictions"
                            .to_owned()
                    }
                    Some(_) => format!("take another column for it with {map}; if there is no such column, it is added"),
                    None => format!("change its type, or name another column with {map}"),
                };
                problems
                    .push(format!("the column {name:?} is {shown}; {field} is {needed}: {remedy}"));
                continue;
            }
            if column.is_generated && field.agentkey_writes() {
                problems.push(format!(
                    "the column {name:?} is generated, so {field} cannot be written: name another with {map}"
                ));
            }
            // A recorded table is opened as it is: its accounts already have balances.
            if *field == KeyColumn::Account && column.is_nondeterministic && recorded.is_none() {
                problems.push(format!(
                    "the column {name:?} has a collation that is not deterministic: different accounts would be \
                     found as one and yet have separate budgets; change its collation, or name another column with {map}"
                ));
            }
            let must_be_unique = matches!(field, KeyColumn::Id | KeyColumn::Hash);
            if must_be_unique && self.kind.is_none() && !self.is_unique(column) {
                problems.push(format!(
                    "the column {name:?} is not unique: {field} needs a primary key, a unique constraint or a unique \
                     index on it alone, not partial and not deferrable"
                ));
            }
            let fits = match column.type_name.as_str() {
                "bpchar" => column.length == Some(64),
                _ => column.length.is_none_or(|length| length >= 64),
            };
            if *field == KeyColumn::Hash && !fits {
                problems.push(format!("the column {name:?} is {shown}; a hash has 64 characters"));
            }
        }
        problems
    }

    /// Returns the columns that are to be added, with their types.
    pub(super) fn missing_columns<'a>(
        &self,
        columns: &'a BTreeMap<KeyColumn, String>,
    ) -> impl Iterator<Item = (KeyColumn, &'a str, &'static str)> {
        columns
            .iter()
            .filter(|(_, name)| !self.has(name))
            .filter_map(|(field, name)| Some((*field, name.as_str(), field.spec().added_type?)))
    }

    /// Returns the columns as they are read after missing ones have been added.
    pub(super) fn key_columns(
        &self,
        columns: &BTreeMap<KeyColumn, String>,
        switches: &Switches,
        null_defaults: NullDefaults,
        default_issuer: Option<String>,
    ) -> Result<KeyColumns, String> {
        let name = |field: KeyColumn| columns.get(&field).map_or("", String::as_str);
        let ident = |field| Ident::new(name(field));
        let column = |field| self.column(name(field));
        let type_name = |field| column(field).map_or("", |column| column.type_name.as_str());
        let time = |field| {
            Ok::<_, String>(TimeColumn {
                name: ident(field)?,
                is_without_zone: type_name(field) == "timestamp",
            })
        };
        let (limit, limit_unit) = match columns.get(&KeyColumn::LimitCents) {
            Some(_) => {
                let max = match type_name(KeyColumn::LimitCents) {
                    "int2" => i64::from(i16::MAX),
                    "int4" => i64::from(i32::MAX),
                    _ => i64::MAX / 10_000,
                };
                (KeyColumn::LimitCents, LimitUnit::Cents { max })
            }
            None => (KeyColumn::LimitMicros, LimitUnit::Micros),
        };
        let id_type = |field| match type_name(field) {
            "int2" => IdType::SmallInt,
            "int4" => IdType::Integer,
            "int8" => IdType::BigInt,
            "uuid" => IdType::Uuid,
            _ => IdType::Text { max: column(field).and_then(|column| column.length) },
        };
        let switches = switches.iter().map(|(name, off): (_, &SwitchedOff)| {
            let type_name = self.column(name).map_or("", |column| &*column.type_name);
            Ok(Switch { column: name.clone(), is_off: off.sql(&Ident::new(name)?, type_name) })
        });
        Ok(KeyColumns {
            id: ident(KeyColumn::Id)?,
            account: ident(KeyColumn::Account)?,
            account_type: id_type(KeyColumn::Account),
            hash: ident(KeyColumn::Hash)?,
            hash_type: if type_name(KeyColumn::Hash) == "bpchar" { "bpchar" } else { "text" },
            parent: ident(KeyColumn::Parent)?,
            name: ident(KeyColumn::Name)?,
            prefix: ident(KeyColumn::Prefix)?,
            start: ident(KeyColumn::Start)?,
            start_has_prefix: name(KeyColumn::Start) == KEY_PREFIX,
            issuer: ident(KeyColumn::Issuer)?,
            sub: ident(KeyColumn::Subject)?,
            default_issuer,
            scopes: ident(KeyColumn::Scopes)?,
            limit: ident(limit)?,
            limit_unit,
            period: ident(KeyColumn::Period)?,
            created_at: time(KeyColumn::CreatedAt)?,
            expires_at: time(KeyColumn::ExpiresAt)?,
            more_limits: ident(KeyColumn::MoreLimits)?,
            rate_limit: ident(KeyColumn::RateLimit)?,
            allowed_cidrs: ident(KeyColumn::AllowedCidrs)?,
            disabled_at: time(KeyColumn::DisabledAt)?,
            revoked_at: time(KeyColumn::RevokedAt)?,
            revoked_reason: ident(KeyColumn::RevokedReason)?,
            delegated_by: ident(KeyColumn::DelegatedBy)?,
            delegated_by_type: id_type(KeyColumn::DelegatedBy),
            metadata: ident(KeyColumn::Metadata)?,
            switches: switches.collect::<Result<_, String>>()?,
            null_defaults,
            is_own: false,
            invalid_rows: Arc::default(),
        })
    }

    /// Returns whether the column has texts.
    pub(super) fn has_texts(&self, name: &str) -> bool {
        let is_text = |column: &Column| HASHES.names.contains(&&*column.type_name);
        self.column(name).is_some_and(is_text)
    }

    /// Returns whether the column is a `timestamp` without a zone.
    pub(super) fn is_without_zone(&self, name: &str) -> bool {
        self.column(name).is_some_and(|column| column.type_name == "timestamp")
    }
}
