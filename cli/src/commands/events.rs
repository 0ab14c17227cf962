//! `events`: the audit trail.

mod detail;

use std::time::Duration;

use agentkey::model::{Actor, Event, EventKind};
use agentkey::{AgentKeys, EventQuery};
use clap::Args as ClapArgs;
use futures_util::{Stream, StreamExt, TryStreamExt};

use crate::commands::OwnerArgs;
use crate::database::DatabaseArgs;
use crate::error::Error;
use crate::ui::{self, Table, Ui};

const EXAMPLES: &str = "\
Example:
  agentkey events --key 7 --subtree --since 7d
  agentkey events --account acme --kind refused --jsonl
  agentkey events --follow

Refusals of a minute are one event with a count.";

/// How many events are read at once.
const PAGE: u32 = 500;

/// How often `--follow` asks for more.
const INTERVAL: Duration = Duration::from_secs(1);

/// The arguments of `events`.
#[derive(Debug, ClapArgs)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    #[command(flatten)]
    owner: OwnerArgs,
    /// Only events of this kind, such as key.revoked or refused; repeat it for more
    #[arg(long, value_name = "KIND")]
    kind: Vec<EventKind>,
    /// At most so many, the oldest first
    #[arg(long, value_name = "COUNT", conflicts_with = "follow")]
    limit: Option<usize>,
    /// A JSON object a line
    #[arg(long, conflicts_with = "json")]
    jsonl: bool,
    /// Go on with new events until the program is ended
    #[arg(long, conflicts_with_all = ["json", "until"])]
    follow: bool,
}

impl Args {
    pub(crate) async fn run(self, database: &DatabaseArgs, ui: &Ui) -> Result<(), Error> {
        let work = async |keys: &AgentKeys| {
            let query = self.query(keys).await?;
            if self.follow {
                return self.follow(keys, query, ui).await;
            }
            let events = keys.event_stream(query).map_err(Error::from);
            let events = events.take(self.limit.unwrap_or(usize::MAX));
            match self.jsonl {
                true => lines(events, ui).await,
                false => print(events, ui).await,
            }
        };
        database.with_keys(work).await
    }

    async fn query(&self, keys: &AgentKeys) -> Result<EventQuery, Error> {
        let (account, key) = self.owner.owner(keys).await?;
        let mut query = EventQuery::for_account(account).limit(PAGE);
        query = match key {
            Some(key) if self.owner.subtree => query.subtree(key),
            Some(key) => query.key(key),
            None => query,
        };
        (query.since, query.until) = (self.owner.since, self.owner.until);
        query.kinds.clone_from(&self.kind);
        Ok(query)
    }

    /// Prints events as they come. The last page is read again and again: it has no cursor yet.
    async fn follow(&self, keys: &AgentKeys, mut query: EventQuery, ui: &Ui) -> Result<(), Error> {
        let mut seen = 0;
        loop {
            let page = keys.events(&query).await?;
            for event in page.items.iter().skip(seen) {
                ui.line(&if self.jsonl { json(event)? } else { sentence(event) })?;
            }
            match page.next {
                Some(next) => (query.after, seen) = (Some(next), 0),
                None => {
                    seen = page.items.len();
                    tokio::time::sleep(INTERVAL).await;
                }
            }
        }
    }
}

async fn lines(events: impl Stream<Item = Result<Event, Error>>, ui: &Ui) -> Result<(), Error> {
    let mut events = std::pin::pin!(events);
    while let Some(event) = events.try_next().await? {
        ui.line(&json(&event)?)?;
    }
    Ok(())
}

async fn print(events: impl Stream<Item = Result<Event, Error>>, ui: &Ui) -> Result<(), Error> {
    if ui.is_json() {
        return ui.list("events", events).await;
    }
    let mut table = Table::new(&["AT", "KIND", "KEY", "NAME", "BY", "ROUTE", "COUNT", "MORE"])
        .right(2)
        .right(6);
    let mut is_empty = true;
    let mut events = std::pin::pin!(events);
    while let Some(event) = events.try_next().await? {
        table.row([
            ui::instant(event.at),
            event.kind.as_str().to_owned(),
            event.key.map(|key| key.to_string()).unwrap_or_default(),
            event.key_name.clone().unwrap_or_default(),
            actor(&event.origin.actor),
            event.origin.route.clone().unwrap_or_default(),
            event.count.to_string(),
            detail::words(&event.detail),
        ]);
        is_empty = false;
    }
    if is_empty {
        ui.note("There are no events.");
        return Ok(());
    }
    table.print()
}

fn json(event: &Event) -> Result<String, Error> {
    serde_json::to_string(event).map_err(|error| Error::Failed(error.to_string()))
}

/// Returns an event as a line that stands by itself.
fn sentence(event: &Event) -> String {
    let mut words = vec![ui::instant(event.at), event.kind.as_str().to_owned()];
    words.extend(event.key.map(|key| format!("key {key}")));
    let name = event.key_name.as_deref().filter(|name| !name.is_empty());
    words.extend(name.map(|name| format!("({})", name.escape_debug())));
    words.push(format!("by {}", actor(&event.origin.actor).escape_debug()));
    words.extend(event.origin.route.as_ref().map(|route| format!("at {}", route.escape_debug())));
    words.extend((event.count > 1).then(|| format!("{} times", event.count)));
    words.extend(Some(detail::words(&event.detail)).filter(|detail| !detail.is_empty()));
    words.join(" ")
}

/// Returns who acted, in a word or two.
fn actor(actor: &Actor) -> String {
    match actor {
        Actor::Application => "the application".to_owned(),
        Actor::Ledger => "the ledger".to_owned(),
        Actor::Principal { name } => name.clone().unwrap_or_else(|| "a login".to_owned()),
        Actor::Signup => "a sign-up".to_owned(),
        Actor::Key { id } => format!("key {id}"),
        Actor::Session { id } => format!("session {id}"),
        Actor::Subject { subject, .. } => subject.to_string(),
        _ => "another".to_owned(),
    }
}
