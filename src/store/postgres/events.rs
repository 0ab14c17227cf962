//! The audit trail.

use jiff::Timestamp;

use super::connection::Statements;
use super::decode::{Cells, ReadCells};
use super::error::{Result, invalid_row};
use super::inner::Inner;
use super::types::Instant;
use super::usage::owner;
use crate::model::{Actor, Event, KeyId};
use crate::store::fast_path::ceiling;
use crate::store::{Cursor, EventQuery};

impl Inner {
    /// Writes an event in a transaction that has begun.
    pub(super) async fn insert_event(
        &self,
        statements: &mut Statements<'_>,
        event: &Event,
    ) -> Result<()> {
        let lineage: Vec<_> = event.lineage.iter().map(|key| key.get()).collect();
        let query = self.sql.insert_event.query();
        let query = query
            .bind(Instant(event.at))
            .bind(event.account.as_str().to_owned())
            .bind(event.key.map(KeyId::get))
            .bind(event.key_name.clone())
            .bind(lineage)
            .bind(event.delegated_by.clone())
            .bind(event.kind.as_str())
            .bind(actor(&event.origin.actor)?)
            .bind(event.origin.request_id.clone())
            .bind(event.origin.route.clone())
            .bind(event.detail.to_string());
        statements.run(query).await
    }

    /// Writes events of refusals.
    pub(super) async fn record_refusals(&self, refusals: &[Event]) -> Result<()> {
        let texts = |text: fn(&Event) -> Option<String>| refusals.iter().map(text).collect();
        let path = |event: &Event| {
            let ids: Vec<_> = event.lineage.iter().map(ToString::to_string).collect();
            format!("{{{}}}", ids.join(","))
        };
        let actors = refusals.iter().map(|event| actor(&event.origin.actor));
        let query = self.sql.record_refusals.query();
        let query = query
            .bind(refusals.iter().map(|event| Instant(event.at)).collect::<Vec<_>>())
            .bind(refusals.iter().map(|it| it.account.as_str().to_owned()).collect::<Vec<_>>())
            .bind(refusals.iter().map(|event| event.key.map(KeyId::get)).collect::<Vec<_>>())
            .bind::<Vec<_>>(texts(|event| event.key_name.clone()))
            .bind(refusals.iter().map(path).collect::<Vec<_>>())
            .bind::<Vec<_>>(texts(|event| event.delegated_by.clone()))
            .bind(refusals.iter().map(|event| event.kind.as_str()).collect::<Vec<_>>())
            .bind(actors.collect::<Result<Vec<_>>>()?)
            .bind::<Vec<_>>(texts(|event| event.origin.request_id.clone()))
            .bind::<Vec<_>>(texts(|event| event.origin.route.clone()))
            .bind::<Vec<_>>(texts(|event| event.reason().map(str::to_owned)))
            .bind(refusals.iter().map(|event| event.count.cast_signed()).collect::<Vec<_>>())
            .bind(refusals.iter().map(|event| event.detail.to_string()).collect::<Vec<_>>());
        self.connections.fetch(query).await.map(drop)
    }

    pub(super) async fn events(&self, query: &EventQuery) -> Result<Vec<(Cursor, Event)>> {
        let page = self.schema.sql(
            &include_str!("sql/list_events.sql")
                .replace("{owner}", owner(query.key, query.with_descendants)),
        );
        let kinds: Vec<_> = query.kinds.iter().map(|kind| kind.as_str()).collect();
        let (since, until) = (query.since.map(ceiling), query.until.map(ceiling));
        let page = page
            .query()
            .bind(query.account.as_str().to_owned())
            .bind(query.key.map(KeyId::get))
            .bind(query.after.map_or(i64::MIN, Cursor::get))
            .bind(Instant(since.unwrap_or(Timestamp::MIN)))
            .bind(Instant(until.unwrap_or(Timestamp::MAX)))
            .bind((!kinds.is_empty()).then_some(kinds))
            .bind(i64::from(query.limit));
        let read = |mut cells: Cells<'_>| Ok((Cursor::new(cells.number()?), cells.event()?));
        self.connections.fetch(page).await?.iter().map(Cells::new).map(read).collect()
    }
}

fn actor(actor: &Actor) -> Result<String> {
    serde_json::to_string(actor).map_err(invalid_row)
}
