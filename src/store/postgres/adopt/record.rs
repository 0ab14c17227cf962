//! The record of an adoption: what the first opening says holds for all later ones.

use std::collections::BTreeMap;

use jiff::Timestamp;
use sqlx::Row;

use super::{Adoption, KeyColumn, SwitchedOff};
use crate::model::{Amount, Budget, Scope, ScopeSet};
use crate::store::postgres::connection::Statements;
use crate::store::postgres::error::{Result, invalid_row};
use crate::store::postgres::names::literal;
use crate::store::postgres::schema::{NullDefaults, Schema};
use crate::store::postgres::step::exists;
use crate::store::postgres::types::Instant;

/// The advice after SQL that changes the record.
pub(super) const RESTART: &str =
    "and restart every process that has it open: each uses the record as it was when it opened";

/// The columns that switch keys off.
pub(super) type Switches = BTreeMap<String, SwitchedOff>;

/// An adoption as it was recorded.
#[derive(Clone, Debug)]
pub(super) struct Record {
    pub(super) table: String,
    pub(super) columns: BTreeMap<KeyColumn, String>,
    pub(super) switches: Switches,
    pub(super) null_defaults: NullDefaults,
    /// The issuer of the subjects in rows that name none.
    pub(super) issuer: Option<String>,
}

/// Returns the record in the side tables of `schema`, if there is one.
pub(super) async fn read(
    statements: &mut Statements<'_>,
    schema: &Schema,
) -> Result<Option<Record>> {
    if !exists(statements, &schema.fill("{adoption}")).await? {
        return Ok(None);
    }
    let text = schema
        .sql("SELECT table_name, columns::text, scopes, limit_micros, period, adopted_at, switches::text, issuer FROM {adoption} WHERE is_one");
    let rows = statements.fetch(text.query()).await?;
    let Some(row) = rows.first() else { return Ok(None) };
    let names: BTreeMap<String, String> =
        serde_json::from_str(row.try_get(1)?).map_err(invalid_row)?;
    let column = |(field, name)| {
        let field = KeyColumn::ALL.into_iter().find(|column| column.spec().name == field);
        field
            .map(|field| (field, name))
            .ok_or_else(|| invalid_row("a column of the adoption record is for an unknown field"))
    };
    let switches: BTreeMap<String, String> =
        serde_json::from_str(row.try_get(6)?).map_err(invalid_row)?;
    let switch = |(column, off): (String, String)| {
        let off = SwitchedOff::from_name(&off);
        off.map(|off| (column, off))
            .ok_or_else(|| invalid_row("a switch of the adoption record is unknown"))
    };
    let scopes = match row.try_get::<Option<Vec<String>>, _>(2)? {
        None => ScopeSet::unrestricted(),
        Some(scopes) => scopes
            .iter()
            .map(|scope| Scope::stored(scope))
            .collect::<Result<_, _>>()
            .map_err(invalid_row)?,
    };
    let limit = row.try_get::<Option<i64>, _>(3)?.map(Amount::micros);
    let period = row.try_get::<&str, _>(4)?.parse().map_err(invalid_row)?;
    let Instant(created_at) = row.try_get(5)?;
    Ok(Some(Record {
        table: row.try_get(0)?,
        columns: names.into_iter().map(column).collect::<Result<_>>()?,
        switches: switches.into_iter().map(switch).collect::<Result<_>>()?,
        null_defaults: NullDefaults { scopes, budget: Budget::new(limit, period), created_at },
        issuer: row.try_get(7)?,
    }))
}

/// Returns the table that was adopted, if there is one.
pub(in crate::store::postgres) async fn adopted(
    statements: &mut Statements<'_>,
    schema: &Schema,
) -> Result<Option<String>> {
    Ok(read(statements, schema).await?.map(|record| record.table))
}

impl Record {
    pub(super) fn new(
        table: &str,
        columns: BTreeMap<KeyColumn, String>,
        switches: Switches,
        adoption: &Adoption,
        at: Timestamp,
    ) -> Self {
        let null_defaults = NullDefaults {
            scopes: adoption.scopes.clone(),
            budget: adoption.budget,
            created_at: at,
        };
        let issuer = adoption.issuer.clone();
        Self { table: table.to_owned(), columns, switches, null_defaults, issuer }
    }

    /// Returns the statement that inserts the record. `now` is an SQL expression.
    pub(super) fn insert(&self, schema: &Schema, now: &str) -> String {
        let columns: BTreeMap<_, _> =
            self.columns.iter().map(|(field, name)| (field.spec().name, name)).collect();
        let switches: BTreeMap<_, _> =
            self.switches.iter().map(|(column, off)| (column, off.as_str())).collect();
        let json = |map: serde_json::Result<String>| literal(&map.unwrap_or_default());
        format!(
            "INSERT INTO {} (table_name, columns, switches, scopes, limit_micros, period, issuer, adopted_at)\n\
             VALUES ({}, {}, {}, {}, {}, {now})",
            schema.fill("{adoption}"),
            literal(&self.table),
            json(serde_json::to_string(&columns)),
            json(serde_json::to_string(&switches)),
            null_defaults_sql(&self.null_defaults.scopes, &self.null_defaults.budget).join(", "),
            self.issuer.as_deref().map_or_else(|| "NULL".to_owned(), literal),
        )
    }

    /// Checks that another adoption agrees with the record, as far as it says anything. The error says how to resolve a
    /// difference.
    pub(super) fn agrees(
        &self,
        table: &str,
        adoption: Option<&Adoption>,
        schema: &Schema,
    ) -> Result<(), String> {
        let adoption_table = schema.fill("{adoption}");
        if self.table != table {
            return Err(format!(
                "the tables of the schema {} belong to {}, and their ids are those of its keys: for {table}, give \
                 agentkey another schema (`PostgresOptions::schema`). If the table was renamed, say so with: \
                 UPDATE {adoption_table} SET table_name = {}; {RESTART}",
                schema.name,
                self.table,
                literal(table),
            ));
        }
        let Some(adoption) = adoption else { return Ok(()) };
        for (field, name) in &adoption.columns {
            let recorded = self.columns.get(field);
            if recorded != Some(name) {
                let recorded = recorded
                    .map_or_else(|| "no column".to_owned(), |name| format!("the column {name:?}"));
                return Err(format!(
                    "{table} was adopted with {recorded} for {field}, not with {name:?}: leave `Adoption::column` out, \
                     or, once its values are in the other column, change `columns` in {adoption_table} {RESTART}"
                ));
            }
        }
        for (name, off) in &adoption.switches {
            if self.switches.get(name) != off.as_ref() {
                return Err(format!(
                    "{table} was adopted with another meaning of the column {name:?}: leave `Adoption::switch` and \
                     `Adoption::ignore` out, or change `switches` in {adoption_table} {RESTART}"
                ));
            }
        }
        if let Some(issuer) = &adoption.issuer
            && self.issuer.as_ref() != Some(issuer)
        {
            let recorded =
                self.issuer.as_deref().map_or_else(|| "none".to_owned(), |it| format!("{it:?}"));
            return Err(format!(
                "{table} was adopted with another issuer of its subjects ({recorded}): leave `Adoption::issuer` out, or, \
                 to change it, run: UPDATE {adoption_table} SET issuer = {}; {RESTART}",
                literal(issuer),
            ));
        }
        if adoption.scopes != self.null_defaults.scopes
            || adoption.budget != self.null_defaults.budget
        {
            let [scopes, limit, period] = null_defaults_sql(&adoption.scopes, &adoption.budget);
            return Err(format!(
                "{table} was adopted with other scopes or another budget for rows that have none ({}; {}). Opening \
                 does not change what those rows mean: leave `PostgresOptions::adopt` out, or, to change it, run: \
                 UPDATE {adoption_table} SET scopes = {scopes}, limit_micros = {limit}, period = {period}; {RESTART}",
                self.null_defaults.scopes,
                shown(&self.null_defaults.budget),
            ));
        }
        Ok(())
    }
}

fn shown(budget: &Budget) -> String {
    match budget.limit {
        Some(limit) => format!("{limit} per {}", budget.period),
        None => "unlimited".to_owned(),
    }
}

/// Returns scopes, limit and period as SQL.
fn null_defaults_sql(scopes: &ScopeSet, budget: &Budget) -> [String; 3] {
    let scopes = match scopes.is_unrestricted() {
        true => "NULL".to_owned(),
        false => {
            let scopes: Vec<_> = scopes.iter().map(|scope| literal(scope.as_str())).collect();
            format!("ARRAY[{}]::text[]", scopes.join(", "))
        }
    };
    let limit =
        budget.limit.map_or_else(|| "NULL".to_owned(), |limit| limit.as_micros().to_string());
    [scopes, limit, literal(budget.period.as_str())]
}
