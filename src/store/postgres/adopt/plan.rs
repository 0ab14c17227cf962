//! The steps of an adoption.

use std::collections::BTreeMap;

use sqlx::Row;

use super::record::{self, Record};
use super::shape::{self, Shape};
use super::{Adoption, KeyColumn};
use crate::model::Subject;
use crate::store::postgres::connection::Statements;
use crate::store::postgres::error::{Error, Result, config_error};
use crate::store::postgres::names::{Ident, Sql, TableName, literal};
use crate::store::postgres::schema::Schema;
use crate::store::postgres::step::{Now, Step, exists, first};

const TAKE_OVER: &str = include_str!("../../../../migrations/postgres/take_over.sql");

/// A table that is to be adopted.
pub(in crate::store::postgres) struct Adopting<'a> {
    pub(in crate::store::postgres) table: &'a TableName,
    pub(in crate::store::postgres) adoption: Option<&'a Adoption>,
    pub(in crate::store::postgres) now: Now,
}

/// Returns how the table is read, and the steps to be run first. Changes nothing.
pub(in crate::store::postgres) async fn plan(
    statements: &mut Statements<'_>,
    own: &Schema,
    adopting: &Adopting<'_>,
) -> Result<(Schema, Vec<Step>)> {
    let Adopting { table, adoption, now } = adopting;
    let quoted = table.quoted()?;
    let shape = match shape::inspect(statements, table).await? {
        Ok(shape) => shape,
        Err(problem) => return Err(refused(&quoted, &[problem], "")),
    };
    let recorded = record::read(statements, own).await?;
    let is_first = recorded.is_none();
    let (record, problems) = match recorded {
        Some(record) => {
            record.agrees(&quoted, *adoption, own).map_err(config_error)?;
            let adoption_table = own.fill("{adoption}");
            let mut problems = shape.problems(&record.columns, Some(&*adoption_table));
            problems.extend(shape.switch_problems(&record.switches, &adoption_table));
            (record, problems)
        }
        None => {
            let adoption = adoption.ok_or_else(|| config_error(not_adopted(&quoted)))?;
            adoption
                .budget
                .validate()
                .map_err(|error| config_error(format!("`PostgresOptions::adopt`: {error}")))?;
            if let Some(issuer) = &adoption.issuer {
                Subject::new(issuer, "-")
                    .map_err(|error| config_error(format!("`Adoption::issuer`: {error}")))?;
            }
            if adoption.budget.more().next().is_some() {
                return Err(config_error(
                    "`PostgresOptions::adopt`: a row without a limit has one limit: give a budget with one",
                ));
            }
            let (columns, mut problems) = shape.choose(adoption);
            problems.extend(shape.problems(&columns, None));
            let (switches, more) = shape.choose_switches(adoption, &columns);
            problems.extend(more);
            problems.extend(check_side_tables(statements, own).await?);
            problems.extend(check_hashes(statements, &quoted, &shape, &columns).await?);
            if shape.is_filtered && columns.contains_key(&KeyColumn::UsedCents) {
                problems.push(
                    "row security is in force for this role, so the spending of hidden rows could not be taken over: \
                     open it once as the table's owner, or as a role with BYPASSRLS"
                        .to_owned(),
                );
            }
            (Record::new(&quoted, columns, switches, adoption, now.at), problems)
        }
    };
    if !problems.is_empty() {
        return Err(refused(&quoted, &problems, if is_first { IMPORT_INSTEAD } else { "" }));
    }
    let columns = shape.key_columns(
        &record.columns,
        &record.switches,
        record.null_defaults.clone(),
        record.issuer.clone(),
    );
    let columns = columns.map_err(config_error)?;
    let schema = Schema { name: own.name.clone(), keys: quoted, columns };
    let quoted = &schema.keys;
    if is_first {
        for (column, off) in &record.switches {
            tracing::info!(
                table = quoted,
                column,
                off = off.as_str(),
                "keys are refused where this column switches them off"
            );
        }
        warn_of_rows(statements, &schema).await?;
        if shape.missing_columns(&record.columns).all(|(field, ..)| field != KeyColumn::Parent) {
            warn_of_orphans(statements, &schema).await?;
        }
    }
    for (field, column, _) in shape.missing_columns(&record.columns) {
        if matches!(field, KeyColumn::ExpiresAt | KeyColumn::RevokedAt)
            && has_rows(statements, quoted).await?
        {
            tracing::warn!(
                table = quoted,
                column,
                "the table has keys and no such column: one is added for {field}, which is NULL for those keys; if another \
                 column has these values, under another name or as a boolean, fill the new one before the keys are used"
            );
        }
    }
    let steps = steps(&schema, &shape, &record, is_first, &now.sql)?;
    Ok((schema, steps))
}

fn refused(table: &str, problems: &[String], way_out: &str) -> Error {
    let mut text = format!("agentkey cannot keep its keys in {table}; nothing was changed:");
    for problem in problems {
        text.push_str("\n- ");
        text.push_str(problem);
    }
    text.push_str(way_out);
    config_error(text)
}

/// The way that is open to the keys of every table.
const IMPORT_INSTEAD: &str = "\nOr leave the table as it is and import its keys instead, with `AgentKeys::import`, if their hashes \
    are SHA-256 in hexadecimal or base64: see docs/adoption.md";

fn not_adopted(table: &str) -> String {
    format!(
        "{table} has not been adopted yet: say with `PostgresOptions::adopt(Adoption::new(scopes, budget))` what a \
         row without scopes or without a budget means"
    )
}

/// Returns a problem if the side tables are in use for other keys, whose ids would collide with these.
async fn check_side_tables(
    statements: &mut Statements<'_>,
    own: &Schema,
) -> Result<Option<String>> {
    for table in [own.keys.clone(), own.fill("{accounts}"), own.fill("{entries}")] {
        if exists(statements, &table).await? && has_rows(statements, &table).await? {
            return Ok(Some(format!(
                "the schema {} has agentkey's tables for other keys with the same ids ({table} is not empty): choose another \
                 schema for the side tables of this one (`PostgresOptions::schema`)",
                own.name
            )));
        }
    }
    Ok(None)
}

async fn has_rows(statements: &mut Statements<'_>, table: &str) -> Result<bool> {
    let text = Sql::new(&format!("SELECT EXISTS (SELECT FROM {table})"));
    first(&statements.fetch(text.query()).await?, false)
}

/// Returns a problem if no token can have any of the hashes.
async fn check_hashes(
    statements: &mut Statements<'_>,
    table: &str,
    shape: &Shape,
    columns: &BTreeMap<KeyColumn, String>,
) -> Result<Option<String>> {
    let name = columns.get(&KeyColumn::Hash).filter(|name| shape.has_texts(name));
    let Some(name) = name.and_then(|name| Ident::new(name).ok()) else { return Ok(None) };
    let text = include_str!("../sql/adopt/hashes.sql")
        .replace("{hash}", &name.to_string())
        .replace("{keys}", table);
    let rows = statements.fetch(Sql::new(&text).query()).await?;
    let Some(row) = rows.first() else { return Ok(None) };
    let (all, good, base64): (i64, i64, i64) = (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
    if all == 0 || good > 0 {
        return Ok(None);
    }
    let kind = match base64 {
        0 => "keys with a hash of another kind need new tokens",
        _ => "in base64, as they seem to be, keys can be imported",
    };
    Ok(Some(format!(
        "none of the {all} values of {name} is a SHA-256 in lower-case hexadecimal, so no token would be found: {kind}"
    )))
}

/// Logs rows that no token matches, and rows without an account.
async fn warn_of_rows(statements: &mut Statements<'_>, schema: &Schema) -> Result<()> {
    let table = &schema.keys;
    let rows = statements.fetch(schema.sql(include_str!("../sql/adopt/rows.sql")).query()).await?;
    let Some(row) = rows.first() else { return Ok(()) };
    let (unmatched, without_account): (i64, i64) = (row.try_get(0)?, row.try_get(1)?);
    if without_account > 0 {
        tracing::warn!(
            table,
            rows = without_account,
            "some rows have no account: they are refused, and their spending is not taken over"
        );
    }
    if unmatched > 0 {
        tracing::warn!(
            table,
            rows = unmatched,
            "some rows have no SHA-256 in lower-case hexadecimal: no token can match them"
        );
    }
    Ok(())
}

/// Logs keys whose parent is missing. They are refused, because what the parent allows is unknown.
async fn warn_of_orphans(statements: &mut Statements<'_>, schema: &Schema) -> Result<()> {
    let table = &schema.keys;
    let orphans =
        statements.fetch(schema.sql(include_str!("../sql/adopt/orphans.sql")).query()).await?;
    let orphans: i64 = first(&orphans, 0)?;
    if orphans > 0 {
        tracing::warn!(
            table,
            rows = orphans,
            "some keys have a parent that is not in their account: they are refused"
        );
    }
    Ok(())
}

fn steps(
    schema: &Schema,
    shape: &Shape,
    record: &Record,
    is_first: bool,
    now: &str,
) -> Result<Vec<Step>> {
    let (keys, columns) = (&schema.keys, &schema.columns);
    let mut steps = Vec::new();
    let added: Vec<_> = shape.missing_columns(&record.columns).collect();
    if !added.is_empty() {
        let parts: Result<Vec<_>, _> = added
            .iter()
            .map(|(_, name, sql_type)| {
                Ident::new(name).map(|name| format!("\n    ADD COLUMN {name} {sql_type}"))
            })
            .collect();
        steps.push(Step::needed(format!(
            "ALTER TABLE {keys}{}",
            parts.map_err(config_error)?.join(",")
        )));
    }
    if added.iter().any(|(field, ..)| *field == KeyColumn::CreatedAt) {
        // In a step of its own, so that the existing rows stay as they are.
        let name = &columns.created_at.name;
        steps.push(Step::needed(format!(
            "ALTER TABLE {keys} ALTER COLUMN {name} SET DEFAULT now()"
        )));
    }
    let name = |field| record.columns.get(&field).map_or("", String::as_str);
    if !shape.is_indexed(name(KeyColumn::Account), false) {
        steps.push(Step::useful(format!(
            "CREATE INDEX ON {keys} ({}, {})",
            columns.account, columns.id
        )));
    }
    if !shape.is_indexed(name(KeyColumn::Parent), true) {
        let parent = &columns.parent;
        steps.push(Step::useful(format!(
            "CREATE INDEX ON {keys} ({parent}, {}) WHERE {parent} IS NOT NULL",
            columns.id
        )));
    }
    let subject = name(KeyColumn::Subject);
    if record.issuer.is_some() && !shape.is_indexed(subject, true) {
        let sub = &columns.sub;
        steps.push(Step::useful(format!("CREATE INDEX ON {keys} ({sub}) WHERE {sub} IS NOT NULL")));
    }
    if is_first {
        // Writers of the table wait while its spending is taken over. Readers wait if a column was added.
        steps.push(Step::needed(format!("LOCK TABLE {keys} IN SHARE ROW EXCLUSIVE MODE")));
        steps.push(Step::needed(record.insert(schema, now)));
        if let Some(used) = record.columns.get(&KeyColumn::UsedCents) {
            steps.push(Step::needed(take_over(schema, shape, record, used, now)?));
        }
    }
    Ok(steps)
}

/// Returns the statements that take balances and windows over.
fn take_over(
    schema: &Schema,
    shape: &Shape,
    record: &Record,
    used: &str,
    now: &str,
) -> Result<String> {
    let ident = |name: &String| Ident::new(name).map_err(config_error);
    let resets_at = match record.columns.get(&KeyColumn::ResetsAt) {
        Some(name) if shape.is_without_zone(name) => {
            format!("(k.{} AT TIME ZONE 'UTC')", ident(name)?)
        }
        Some(name) => format!("k.{}", ident(name)?),
        None => "NULL::timestamptz".to_owned(),
    };
    let labels = match record.columns.get(&KeyColumn::Subject) {
        Some(name) if shape.has_texts(name) => include_str!("../sql/adopt/labels.sql")
            .trim_end()
            .replace("{subject}", &ident(name)?.to_string()),
        _ => "'{}'".to_owned(),
    };
    let used = Ident::new(used).map_err(config_error)?;
    // A part may contain parts that come after it.
    let parts = [
        ("{has_account}", include_str!("../sql/adopt/has_account.sql")),
        ("{anchor}", include_str!("../sql/adopt/anchor.sql")),
        ("{key_period}", include_str!("../sql/adopt/key_period.sql")),
        ("{absent_period}", &literal(schema.columns.null_defaults.budget.period.as_str())),
        ("{account}", "k.{k.account}::text COLLATE \"C\""),
        ("{resets_at}", &resets_at),
        ("{labels}", &labels),
        ("{used}", &format!("k.{used}")),
        ("{now}", now),
    ];
    let fill = |text: String, (name, part): (&str, &str)| text.replace(name, part.trim_end());
    Ok(schema.fill(&parts.into_iter().fold(TAKE_OVER.to_owned(), fill)))
}
