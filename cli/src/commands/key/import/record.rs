//! The records of an import. No error shows a value of one, which may be a token.

use std::io::{BufRead, Read};

use agentkey::model::TokenHash;
use agentkey::{KeyImport, Token};
use serde_json::{Map, Value};

use super::lines;
use crate::error::Error;
use crate::secrets;

/// What a record may have: the members of [`KeyImport`], and a token in place of its hash.
const MEMBERS: [&str; 16] = [
    "hash",
    "token",
    "account",
    "scopes",
    "name",
    "start",
    "budget",
    "period",
    "spent",
    "resets_at",
    "expires_at",
    "disabled",
    "delegated_by",
    "metadata",
    "rate_limit",
    "allowed_cidrs",
];

/// What the member `rate_limit` may have.
const RATE_LIMIT: [&str; 4] = ["requests", "window_seconds", "burst", "in_flight"];

/// A record, or what is wrong with it, and its line.
pub(super) struct Record {
    line: u64,
    members: Result<Map<String, Value>, String>,
}

type Records = Box<dyn Iterator<Item = Result<Record, Error>>>;

/// Reads CSV with a header.
pub(super) fn csv(input: impl Read + 'static) -> Result<Records, Error> {
    let mut reader = csv::ReaderBuilder::new().flexible(false).from_reader(input);
    let header = reader.headers().map_err(|error| Error::Failed(csv_error(&error)))?.clone();
    for (column, name) in (1..).zip(&header) {
        if !MEMBERS.contains(&name) {
            // A file without a header has a token here.
            return Err(Error::Failed(format!(
                "the header of column {column} is no member of an import: the first line names the \
                 members, which are {}",
                MEMBERS.join(", ")
            )));
        }
    }
    let records = reader.into_records().map(move |record| {
        let record = match record {
            Ok(record) => record,
            Err(error) if error.is_io_error() => return Err(Error::Failed(csv_error(&error))),
            // The records after it are read.
            Err(error) => {
                let line = error.position().map_or(1, csv::Position::line);
                return Ok(Record { line, members: Err(what_is_wrong(&error)) });
            }
        };
        let line = record.position().map_or(0, csv::Position::line);
        let members = header.iter().zip(&record).map(|(name, text)| {
            let value = match (name, text) {
                (_, "") => Value::Null,
                ("disabled", text) => boolean(text),
                (_, text) => Value::from(text),
            };
            (name.to_owned(), value)
        });
        Ok(Record { line, members: Ok(members.collect()) })
    });
    Ok(Box::new(records))
}

/// Reads JSON lines. Empty ones are skipped.
pub(super) fn json_lines(input: impl BufRead + 'static) -> Records {
    let records = lines(input).filter_map(|(line, text)| {
        let text = match text {
            Ok(text) if text.trim().is_empty() => return None,
            Ok(text) => text,
            Err(error) => return Some(Err(Error::Failed(format!("line {line}: {error}")))),
        };
        let members = match serde_json::from_str::<Value>(&text) {
            Ok(Value::Object(members)) => Ok(members),
            Ok(_) => Err("a record is a JSON object".to_owned()),
            Err(error) => Err(format!("the line is no JSON: column {}", error.column())),
        };
        Some(Ok(Record { line, members }))
    });
    Box::new(records)
}

/// Returns the position and the kind of an error, without the fields.
fn csv_error(error: &csv::Error) -> String {
    let line = error.position().map_or(1, csv::Position::line);
    format!("line {line}: {}: correct the file, and import it again", what_is_wrong(error))
}

fn what_is_wrong(error: &csv::Error) -> String {
    match error.kind() {
        csv::ErrorKind::UnequalLengths { expected_len, len, .. } => {
            format!("it has {len} fields, and the header has {expected_len}")
        }
        csv::ErrorKind::Utf8 { .. } => "it is not UTF-8".to_owned(),
        csv::ErrorKind::Io(error) => error.to_string(),
        _ => "it is no record of CSV".to_owned(),
    }
}

fn boolean(text: &str) -> Value {
    match text.to_lowercase().as_str() {
        "true" | "t" | "yes" | "1" => Value::Bool(true),
        "false" | "f" | "no" | "0" => Value::Bool(false),
        _ => Value::from(text),
    }
}

impl Record {
    pub(super) fn line(&self) -> u64 {
        self.line
    }

    /// Sets a member, where the record has none.
    pub(super) fn set_default(&mut self, member: &str, value: &str) {
        if let Ok(members) = &mut self.members {
            let slot = members.entry(member).or_insert(Value::Null);
            if slot.is_null() {
                *slot = Value::from(value);
            }
        }
    }

    /// Returns the import, or a text about the record that has no value of it.
    pub(super) fn import(&self) -> Result<KeyImport, String> {
        let members = self.members.as_ref().map_err(String::clone)?;
        let known = |name: &&String| !MEMBERS.contains(&name.as_str());
        if members.keys().any(|name| known(&name)) {
            return Err(format!("a member is not one of {}", MEMBERS.join(", ")));
        }
        let mut values = Vec::new();
        for value in members.values() {
            texts(value, &mut values);
        }
        let import = read(members.clone());
        import.map_err(|error| {
            // Some errors quote a text as Rust does.
            let quoted = values.iter().map(|value| format!("{value:?}"));
            let values: Vec<_> = values.iter().cloned().chain(quoted).collect();
            let words = values.iter().flat_map(|value| value.split_whitespace());
            let values = values.iter().map(|value| value.trim_matches('"')).chain(words);
            secrets::without_values(&error, values)
        })
    }
}

fn read(mut members: Map<String, Value>) -> Result<KeyImport, String> {
    // Numbers become the texts that they are written as, so that no amount passes through a float.
    let rate_limit = members.remove("rate_limit").map(rate_limit).transpose()?;
    let ranges = members.remove("allowed_cidrs");
    for value in members.values_mut() {
        match value {
            Value::Number(number) => *value = Value::from(number.to_string()),
            Value::Object(_) => *value = Value::from(value.to_string()),
            Value::Array(list) => {
                let words: Vec<_> = list.iter().filter_map(Value::as_str).collect();
                if words.len() != list.len() {
                    return Err("a list has texts only".to_owned());
                }
                *value = Value::from(words.join(" "));
            }
            _ => {}
        }
    }
    if let Some(token) = members.remove("token").filter(|token| !token.is_null()) {
        let token = token.as_str().map(Token::parse_foreign).ok_or("token: it is a text")?;
        let token = token.map_err(|error| format!("token: {error}"))?;
        if members.get("hash").is_some_and(|hash| !hash.is_null()) {
            return Err("a record has `hash` or `token`, not both".to_owned());
        }
        members
            .insert("hash".to_owned(), Value::from(TokenHash::digest(token.expose()).to_string()));
        let start = members.entry("start").or_insert(Value::Null);
        if start.is_null() {
            *start = Value::from(token.start());
        }
    }
    for required in ["hash", "account", "scopes"] {
        let slot = members.entry(required).or_insert(Value::Null);
        if slot.is_null() {
            // An empty list of scopes is a value, and so is the empty cell of a CSV file.
            *slot = Value::from("");
        }
    }
    members.extend(rate_limit.map(|limit| ("rate_limit".to_owned(), limit)));
    members.extend(ranges.map(|ranges| ("allowed_cidrs".to_owned(), ranges)));
    serde_json::from_value(Value::Object(members)).map_err(|error| error.to_string())
}

/// Returns a rate limit as an object. The names of its members are checked here, because the error
/// of another one would show it.
fn rate_limit(value: Value) -> Result<Value, String> {
    let no_object =
        "rate_limit: it is an object such as {\"requests\": 100, \"window_seconds\": 60}";
    let value = match value {
        Value::String(text) if text.trim().is_empty() => Value::Null,
        Value::String(text) => serde_json::from_str(&text).map_err(|_| no_object)?,
        value => value,
    };
    match &value {
        Value::Null => Ok(value),
        Value::Object(limit) if limit.keys().all(|name| RATE_LIMIT.contains(&name.as_str())) => {
            Ok(value)
        }
        Value::Object(_) => {
            Err(format!("rate_limit: a member is not one of {}", RATE_LIMIT.join(", ")))
        }
        _ => Err(no_object.to_owned()),
    }
}

/// Collects the texts and numbers of a value, also those of lists and objects in it.
fn texts(value: &Value, all: &mut Vec<String>) {
    match value {
        Value::Array(list) => list.iter().for_each(|value| texts(value, all)),
        Value::Object(members) => members.values().for_each(|value| texts(value, all)),
        Value::String(text) => {
            all.push(text.clone());
            if let Ok(inner @ (Value::Array(_) | Value::Object(_))) = serde_json::from_str(text) {
                texts(&inner, all);
            }
        }
        value => all.push(value.to_string()),
    }
}
