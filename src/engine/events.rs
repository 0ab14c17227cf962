//! Reading the audit trail, and acting in the name of others.

use std::sync::Arc;

use crate::engine::agent_keys::AgentKeys;
use crate::engine::error::Error;
use crate::engine::page::{Page, PageStream, page_limit};
use crate::model::{Event, Origin};
use crate::store::{Cursor, EventQuery};

impl AgentKeys {
    /// Returns a page of the audit trail, oldest first.
    ///
    /// An event was written in the transaction of what it tells. Refusals are the exception: those
    /// of a key in one minute, for one reason and on one route, are one event with a count, which is
    /// written once per [`sweep_interval`](crate::Builder::sweep_interval).
    ///
    /// # Errors
    ///
    /// [`Error::Change`] where the limit of the query is not 1 to 1,000; [`Error::Store`] where the
    /// store does not answer.
    ///
    /// ```
    /// use agentkey::{AgentKeys, EventQuery, MemoryStore, NewKey};
    /// use agentkey::model::{Actor, Origin};
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let keys = AgentKeys::new(MemoryStore::new())?;
    /// let key = keys.create(NewKey::new("acme".parse()?).name("crawler")).await?.key;
    /// let ops = keys.with_origin(Origin::by(Actor::principal("ops@acme")));
    /// ops.revoke(key.id, Some("leaked")).await?;
    ///
    /// let page = keys.events(&EventQuery::for_account("acme".parse()?).subtree(key.id)).await?;
    /// let kinds: Vec<_> = page.items.iter().map(|event| event.kind.as_str()).collect();
    /// assert_eq!(kinds, ["key.created", "key.revoked"]);
    /// assert_eq!(page.items[1].origin.actor, Actor::principal("ops@acme"));
    /// assert_eq!(page.items[1].detail["reason"], "leaked");
    /// # keys.shutdown().await;
    /// # Ok(()) }
    /// ```
    pub async fn events(&self, query: &EventQuery) -> Result<Page<Event, Cursor>, Error> {
        let limit = page_limit(query.limit)?;
        let query = EventQuery { limit: limit + 1, ..query.clone() };
        let items = self.with_store(|store| store.events(&query)).await?;
        let Page { items, next } = Page::cut(items, limit, |(cursor, _)| *cursor);
        Ok(Page { items: items.into_iter().map(|(_, event)| event).collect(), next })
    }

    /// Returns a stream of events over all pages. The limit of the query is the size of a page.
    ///
    /// The stream ends with the first error. Each event is one JSON object, so it is written as JSON
    /// lines by `serde_json::to_string`.
    ///
    /// ```
    /// use agentkey::{AgentKeys, EventQuery, MemoryStore, NewKey};
    /// use futures_util::TryStreamExt;
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let keys = AgentKeys::new(MemoryStore::new())?;
    /// keys.create(NewKey::new("acme".parse()?)).await?;
    /// let mut events = keys.event_stream(EventQuery::for_account("acme".parse()?));
    /// let mut lines = String::new();
    /// while let Some(event) = events.try_next().await? {
    ///     lines += &serde_json::to_string(&event)?;
    ///     lines.push('\n');
    /// }
    /// assert_eq!(lines.lines().count(), 1);
    /// # Ok(()) }
    /// ```
    pub fn event_stream(&self, query: EventQuery) -> PageStream<Event, Cursor> {
        let keys = self.clone();
        PageStream::new(query.after, move |after| {
            let (keys, query) = (keys.clone(), EventQuery { after, ..query.clone() });
            Box::pin(async move { keys.events(&query).await })
        })
    }

    /// Returns a handle whose changes and adjustments have this origin in their events: who acts, and
    /// by which request. It shares everything else with this handle.
    ///
    /// Without it, the events say that the application's own code acted.
    #[must_use = "the handle that it is called on keeps its origin"]
    pub fn with_origin(&self, origin: Origin) -> Self {
        Self { origin: Arc::new(origin), ..self.clone() }
    }

    /// Returns who acts through this handle.
    pub(crate) fn origin(&self) -> &Origin {
        &self.origin
    }
}
