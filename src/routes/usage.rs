//! `GET /keys/me/usage`: what a key was charged.

use axum::extract::{Request, State as StateOf};
use axum::response::Response;
use http::StatusCode;
use jiff::Timestamp;

use super::principal::{Requester, State};
use super::query::{List, Params, encode};
use super::shared::{Shared, json};
use super::wire::{Entry, EntryPage, UsageGroup, UsagePage};
use crate::http::Rejection;
use crate::ledger::Caller;
use crate::model::{Labels, Refusal};
use crate::store::{Cursor, EntryQuery, UsageBy, UsageQuery};

/// What a request asks for.
struct Asked {
    since: Option<Timestamp>,
    until: Option<Timestamp>,
    with_descendants: bool,
    limit: u32,
    list: Listed,
}

enum Listed {
    Entries(Option<Cursor>),
    Groups(UsageBy, Option<String>),
}

pub(super) async fn usage(StateOf(shared): State, request: Request) -> Result<Response, Rejection> {
    let shared = shared.of_request(&request);
    let requester = Requester::of(request.extensions(), &shared).await?;
    let asked = Asked::read(&request).map_err(|refusal| shared.refuse(refusal))?;
    match &asked.list {
        Listed::Entries(after) => entries(&asked, *after, &requester, &shared).await,
        Listed::Groups(by, after) => {
            groups(&asked, by, after.as_deref(), &requester, &shared).await
        }
    }
}

async fn entries(
    asked: &Asked,
    after: Option<Cursor>,
    requester: &Requester,
    shared: &Shared,
) -> Result<Response, Rejection> {
    let mut query = EntryQuery::for_account(requester.account.clone()).limit(asked.limit);
    if let Caller::Key(own) = requester.caller {
        (query.key, query.with_descendants) = (Some(own), asked.with_descendants);
    }
    (query.since, query.until, query.after) = (asked.since, asked.until, after);
    let page = shared.keys.entries(&query).await.map_err(|error| shared.reject(error))?;
    let entries = page.items.into_iter().map(|entry| Entry {
        id: entry.id,
        key: entry.key,
        kind: entry.kind,
        amount_cents: entry.amount,
        at: entry.at,
        refunds: entry.refunds,
        labels: entry.note.labels,
        reference: entry.note.reference,
    });
    let entries = entries.collect();
    let next_cursor = page.next.map(|next| encode(List::Entries, &next.get().to_string()));
    Ok(json(StatusCode::OK, &EntryPage { entries, next_cursor }))
}

async fn groups(
    asked: &Asked,
    by: &UsageBy,
    after: Option<&str>,
    requester: &Requester,
    shared: &Shared,
) -> Result<Response, Rejection> {
    let mut query = UsageQuery::for_account(requester.account.clone(), by.clone());
    if let Caller::Key(own) = requester.caller {
        (query.key, query.with_descendants) = (Some(own), asked.with_descendants);
    }
    (query.since, query.until) = (asked.since, asked.until);
    let sums = shared.keys.usage(&query).await.map_err(|error| shared.reject(error))?;
    let mut sums: Vec<_> = sums
        .into_iter()
        .map(|sum| UsageGroup {
            group: sum.group,
            amount_cents: sum.amount,
            charges: sum.charges,
            adjusted_cents: sum.adjusted,
        })
        .filter(|sum| after.is_none_or(|after| sum.group.as_str() > after))
        .collect();
    sums.sort_by(|one, other| one.group.cmp(&other.group));
    let limit = asked.limit as usize;
    let has_more = sums.len() > limit;
    sums.truncate(limit);
    let last = sums.last().filter(|_| has_more);
    let next_cursor = last.map(|last| encode(List::Groups, &last.group));
    Ok(json(StatusCode::OK, &UsagePage { groups: sums, next_cursor }))
}

impl Asked {
    fn read(request: &Request) -> Result<Self, Refusal> {
        let mut params = Params::read(request.uri())?;
        let (since, until) = (params.instant("since"), params.instant("until"));
        let with_descendants = params.flag("subtree");
        let limit = params.limit();
        let label = params.text("label");
        let by = params.value("group_by", |text| match text {
            "hour" => Ok(UsageBy::Hour),
            "day" => Ok(UsageBy::Day),
            "month" => Ok(UsageBy::Month),
            "key" => Ok(UsageBy::Key),
            "label" => Ok(UsageBy::Label(label.clone().unwrap_or_default())),
            _ => Err("is hour, day, month, key or label".to_owned()),
        });
        match (&by, &label) {
            (Some(UsageBy::Label(_)), None) => params.error("label", "is missing"),
            // PostgreSQL has no U+0000 in a text.
            (Some(UsageBy::Label(name)), Some(_)) => {
                if let Err(error) = Labels::default().insert(name, "") {
                    params.error("label", error.to_string());
                }
            }
            (_, None) => {}
            _ => params.error("label", "needs group_by=label"),
        }
        let list = match by {
            Some(by) => Listed::Groups(by, params.cursor(List::Groups)),
            None => {
                let after = params.cursor(List::Entries);
                let after = after.map(|after| after.parse().map(Cursor::new));
                if matches!(after, Some(Err(_))) {
                    params.error("cursor", "is of no page");
                }
                Listed::Entries(after.and_then(Result::ok))
            }
        };
        params.finish()?;
        Ok(Self { since, until, with_descendants, limit, list })
    }
}
