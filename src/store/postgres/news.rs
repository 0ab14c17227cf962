//! News of changes of policy, by LISTEN.
//!
//! Silence says nothing by itself: a connection may be dead without a sign, and behind PgBouncer in transaction mode a
//! LISTEN is taken and never answered. So the listener calls out into its own channel, over another connection, and
//! believes the silence only as far as it hears its own echo. PostgreSQL delivers notifications in the order of the
//! commits; who hears the echo of a call has heard everything that was committed before the call was made.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use sqlx::PgPool;
use sqlx::postgres::PgListener;
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep, timeout};

/// What calls start with; every other payload is news. `agentkey` has no change that is called so.
const ECHO: &str = "echo ";

/// So often the listener calls out for each time that it believes in silence.
const CALLS: u32 = 3;
const SOONEST_CALL: Duration = Duration::from_millis(10);
const LATEST_CALL: Duration = Duration::from_secs(1);

/// For how long a listener that hears nothing is kept before a new one is tried: the first time, and at most.
const FIRST_PATIENCE: Duration = Duration::from_secs(2);
const LONGEST_PATIENCE: Duration = Duration::from_secs(60);

/// A listener at work. It stops when it is dropped, or its pool closed.
pub(super) struct News {
    heard: Arc<Heard>,
    task: AbortHandle,
}

impl News {
    /// Listens on a channel until dropped, on the current runtime. `max_silence` is how long news may be late without
    /// the listener knowing; it calls out three times as often, and at least once a second.
    ///
    /// The pool gives one connection for good and one for each call.
    pub(super) fn start(pool: PgPool, channel: impl Into<String>, max_silence: Duration) -> Self {
        let heard = Arc::new(Heard::new(max_silence, uuid::Uuid::now_v7().as_u64_pair().1));
        let task = tokio::spawn(run(heard.clone(), pool, channel.into(), max_silence));
        Self { heard, task: task.abort_handle() }
    }

    /// Another number with each piece of news, while it is known that there is no other; `None` while deaf.
    pub(super) fn mark(&self) -> Option<u64> {
        self.heard.mark(Instant::now())
    }

    /// Stops. Nothing is vouched for any more.
    pub(super) fn stop(&self) {
        self.task.abort();
        self.heard.close();
    }
}

impl Drop for News {
    fn drop(&mut self) {
        self.stop();
    }
}

impl fmt::Debug for News {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("News").field("mark", &self.mark()).finish()
    }
}

/// What has been heard.
#[derive(Debug)]
struct Heard {
    max_silence: Duration,
    /// Instants are kept as microseconds after this one.
    epoch: Instant,
    mark: AtomicU64,
    /// Until when the silence is believed, at most; 0 when deaf.
    until: AtomicU64,
    calls: Mutex<Calls>,
}

#[derive(Debug)]
struct Calls {
    /// Tells our calls from those of others.
    name: u64,
    last: u64,
    /// Those whose echo was not heard yet, oldest first.
    open: Vec<(u64, Instant)>,
    closed: bool,
}

impl Heard {
    fn new(max_silence: Duration, name: u64) -> Self {
        let calls = Mutex::new(Calls { name, last: 0, open: Vec::new(), closed: false });
        Self { max_silence, epoch: Instant::now(), mark: AtomicU64::new(1), until: AtomicU64::new(0), calls }
    }

    fn mark(&self, now: Instant) -> Option<u64> {
        let until = self.until.load(Ordering::SeqCst);
        // Read after `until`: what has been heard since then is no older.
        let mark = self.mark.load(Ordering::SeqCst);
        (self.micros(now) < until).then_some(mark)
    }

    /// The payload of the next call, which is made after `now`.
    fn call(&self, now: Instant) -> String {
        let mut calls = self.lock();
        calls.last += 1;
        let number = calls.last;
        // Its echo would say nothing any more.
        calls.open.retain(|(_, at)| now.saturating_duration_since(*at) < self.max_silence);
        calls.open.push((number, now));
        format!("{ECHO}{:016x} {number}", calls.name)
    }

    /// Takes note of a payload; tells whether it was the echo of a call of ours.
    fn hear(&self, payload: &str, now: Instant) -> bool {
        let Some(call) = payload.strip_prefix(ECHO) else {
            self.mark.fetch_add(1, Ordering::SeqCst);
            return false;
        };
        let mut calls = self.lock();
        let number = call.split_once(' ').filter(|(name, _)| u64::from_str_radix(name, 16) == Ok(calls.name));
        let Some(number) = number.and_then(|(_, number)| number.parse::<u64>().ok()) else { return false };
        let Some(place) = calls.open.iter().position(|(open, _)| *open == number) else { return false };
        let Some((_, called_at)) = calls.open.drain(..=place).next_back() else { return false };
        if calls.closed {
            return false;
        }
        if self.micros(now) >= self.until.load(Ordering::SeqCst) {
            // It was deaf. Whatever was missed, what was marked before is not vouched for.
            self.mark.fetch_add(1, Ordering::SeqCst);
        }
        self.until.store(self.micros(called_at + self.max_silence), Ordering::SeqCst);
        true
    }

    /// Hears nothing from now on, until it hears an echo of a call made after this.
    fn deafen(&self) {
        let mut calls = self.lock();
        calls.open.clear();
        self.until.store(0, Ordering::SeqCst);
    }

    fn close(&self) {
        self.lock().closed = true;
        self.deafen();
    }

    fn micros(&self, at: Instant) -> u64 {
        u64::try_from(at.saturating_duration_since(self.epoch).as_micros()).unwrap_or(u64::MAX)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Calls> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn run(heard: Arc<Heard>, pool: PgPool, channel: String, max_silence: Duration) {
    let least_patience = FIRST_PATIENCE.max(max_silence * 2);
    let (mut patience, mut failures) = (least_patience, 0);
    loop {
        let (heard_itself, ended) = listen(&heard, &pool, &channel, max_silence, patience).await;
        heard.deafen();
        if heard_itself {
            (patience, failures) = (least_patience, 0);
        }
        // Once is enough in the log.
        let first = failures == 0;
        failures += 1;
        match ended {
            Ended::By(sqlx::Error::PoolClosed) => return,
            Ended::By(error) if first => {
                tracing::warn!(%error, "agentkey hears of no changes: look-ups go to PostgreSQL until it does");
            }
            Ended::By(error) => tracing::debug!(%error, failures, "agentkey still hears of no changes"),
            Ended::Deaf => {
                if first {
                    tracing::warn!(
                        "agentkey listens and hears nothing, not even itself: look-ups go to PostgreSQL until it \
                         does. Is there a PgBouncer in transaction mode?"
                    );
                }
                patience = (patience * 2).min(LONGEST_PATIENCE.max(least_patience));
            }
        }
        sleep((call_every(max_silence) * failures).min(LATEST_CALL)).await;
    }
}

/// Why nothing is heard any more.
enum Ended {
    By(sqlx::Error),
    Deaf,
}

/// Listens over one connection until that is lost, or silent for too long; tells whether it ever heard itself.
async fn listen(
    heard: &Heard,
    pool: &PgPool,
    channel: &str,
    max_silence: Duration,
    patience: Duration,
) -> (bool, Ended) {
    let listener = timeout(patience, connect(pool, channel)).await;
    let mut listener = match listener.unwrap_or(Err(sqlx::Error::PoolTimedOut)) {
        Ok(listener) => listener,
        Err(error) => return (false, Ended::By(error)),
    };
    let mut heard_itself = false;
    let hearing = async {
        let mut heard_itself_at = Instant::now();
        loop {
            let left = patience.saturating_sub(heard_itself_at.elapsed());
            match timeout(left, listener.try_recv()).await {
                Ok(Ok(Some(news))) => {
                    let now = Instant::now();
                    if heard.hear(news.payload(), now) {
                        heard_itself = true;
                        heard_itself_at = now;
                    }
                }
                Ok(Ok(None)) => return Ended::By(std::io::Error::from(std::io::ErrorKind::ConnectionAborted).into()),
                Ok(Err(error)) => return Ended::By(error),
                Err(_) => return Ended::Deaf,
            }
        }
    };
    let ended = tokio::select! {
        ended = hearing => ended,
        () = call_out(heard, pool, channel, max_silence) => Ended::By(sqlx::Error::PoolClosed),
    };
    (heard_itself, ended)
}

async fn connect(pool: &PgPool, channel: &str) -> sqlx::Result<PgListener> {
    let mut listener = PgListener::connect_with(pool).await?;
    // Else it would connect anew by itself, and what was missed meanwhile would look like silence.
    listener.eager_reconnect(false);
    listener.listen(channel).await?;
    Ok(listener)
}

/// Calls out until the pool is closed. A call that fails has no echo, and that is answer enough.
async fn call_out(heard: &Heard, pool: &PgPool, channel: &str, max_silence: Duration) {
    while !pool.is_closed() {
        let payload = heard.call(Instant::now());
        // A commit that wakes listeners is a commit, and would wait for the disk: nothing is lost with a call. It is
        // no prepared statement, so that every PgBouncer lets it through.
        let call = format!(
            "SELECT set_config('synchronous_commit', 'off', true), pg_notify({}, '{payload}')",
            literal(channel)
        );
        let called = timeout(max_silence, sqlx::raw_sql(sqlx::AssertSqlSafe(call)).execute(pool)).await;
        if let Ok(Err(error)) = called {
            tracing::debug!(%error, "agentkey could not call out to itself");
        }
        sleep(call_every(max_silence)).await;
    }
}

fn call_every(max_silence: Duration) -> Duration {
    (max_silence / CALLS).clamp(SOONEST_CALL, LATEST_CALL)
}

fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SILENCE: Duration = Duration::from_secs(3);

    fn secs(secs: u64) -> Duration {
        Duration::from_secs(secs)
    }

    #[test]
    fn silence_is_believed_for_as_long_as_an_echo_is_fresh() {
        let heard = Heard::new(SILENCE, 7);
        let start = heard.epoch;
        assert_eq!(heard.mark(start), None, "deaf until the first echo");
        let call = heard.call(start + secs(1));
        assert_eq!(call, "echo 0000000000000007 1");
        assert_eq!(heard.mark(start + secs(1)), None);
        // It took its time: what counts is when the call was made.
        assert!(heard.hear(&call, start + secs(2)));
        let mark = heard.mark(start + secs(2));
        assert!(mark.is_some());
        assert_eq!(heard.mark(start + secs(4) - Duration::from_micros(1)), mark);
        assert_eq!(heard.mark(start + secs(4)), None);

        // Heard in time, silence goes on; heard too late, it was deaf meanwhile.
        let mark = renewed(&heard, start + secs(5), secs(1));
        assert_eq!(renewed(&heard, start + secs(7), secs(0)), mark);
        assert_ne!(renewed(&heard, start + secs(11), secs(0)), mark);
        let late = heard.call(start + secs(12));
        assert!(heard.hear(&late, start + secs(15)));
        assert_eq!(heard.mark(start + secs(15)), None, "it was called too long ago");
    }

    fn renewed(heard: &Heard, at: Instant, after: Duration) -> Option<u64> {
        let call = heard.call(at);
        assert!(heard.hear(&call, at + after));
        let mark = heard.mark(at + after);
        assert!(mark.is_some());
        mark
    }

    #[test]
    fn every_piece_of_news_is_another_mark_and_no_echo_is_news() {
        let heard = Heard::new(SILENCE, 7);
        let start = heard.epoch;
        let mut mark = renewed(&heard, start, secs(0));
        for news in ["", "key 1", "echo", "Echo 0000000000000007 1"] {
            assert!(!heard.hear(news, start));
            assert_ne!(std::mem::replace(&mut mark, heard.mark(start)), mark, "{news:?}");
        }
        // Others listen on the same channel.
        for echo in ["echo ", "echo 7", "echo 0000000000000008 1", "echo 0000000000000007 99", "echo x y"] {
            assert!(!heard.hear(echo, start), "{echo:?}");
            assert_eq!(heard.mark(start), mark, "{echo:?}");
        }
    }

    #[test]
    fn a_new_connection_hears_again_only_by_an_echo_of_its_own_and_with_another_mark() {
        let heard = Heard::new(SILENCE, 7);
        let start = heard.epoch;
        let mark = renewed(&heard, start, secs(0));
        let before = heard.call(start);
        heard.deafen();
        assert_eq!(heard.mark(start), None);
        assert!(!heard.hear(&before, start), "called before the connection was lost");
        assert_eq!(heard.mark(start), None);
        let after = renewed(&heard, start, secs(0));
        assert_ne!(after, mark);

        let call = heard.call(start);
        heard.close();
        assert!(!heard.hear(&call, start));
        let call = heard.call(start);
        assert!(!heard.hear(&call, start));
        assert_eq!(heard.mark(start), None, "closed for good");
    }

    #[test]
    fn an_echo_answers_the_calls_before_it_too() {
        let heard = Heard::new(SILENCE, 7);
        let start = heard.epoch;
        let calls = [0, 1, 2].map(|n| heard.call(start + secs(n)));
        assert!(heard.hear(&calls[1], start + secs(2)));
        assert!(!heard.hear(&calls[0], start + secs(2)), "answered already");
        assert!(!heard.hear(&calls[1], start + secs(2)), "said twice");
        assert!(heard.mark(start + secs(4) - Duration::from_micros(1)).is_some());
        assert!(heard.mark(start + secs(4)).is_none());
        // Calls that are never answered are not kept.
        for n in 10..1_000 {
            heard.call(start + secs(n));
        }
        assert!(heard.lock().open.len() <= 4);
    }

    #[test]
    fn it_calls_often_enough() {
        assert_eq!(call_every(secs(3)), secs(1));
        assert_eq!(call_every(Duration::from_millis(300)), Duration::from_millis(100));
        assert_eq!(call_every(Duration::ZERO), SOONEST_CALL);
        assert_eq!(call_every(Duration::MAX), LATEST_CALL);
        assert_eq!(literal("agentkey's"), "'agentkey''s'");
    }
}
