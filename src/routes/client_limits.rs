//! Limits of sign-ups: for each client address, and in total.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::http::client::Client;

/// Counts requests in windows of one length. All counts end with the window, so the memory is
/// bounded by the total of one window.
#[derive(Debug)]
pub(super) struct ClientLimits {
    pub(super) per_client: u32,
    pub(super) total: u32,
    pub(super) window: Duration,
    counted: Mutex<Option<Counted>>,
}

#[derive(Debug)]
struct Counted {
    since: Instant,
    total: u32,
    by_client: HashMap<Client, u32>,
}

impl ClientLimits {
    pub(super) fn new(per_client: u32, total: u32, window: Duration) -> Self {
        Self { per_client, total, window, counted: Mutex::default() }
    }

    /// Counts a request, or returns how long the client has to wait.
    pub(super) fn count(&self, client: Client) -> Result<(), Duration> {
        let now = Instant::now();
        let mut counted = self.counted.lock().unwrap_or_else(PoisonError::into_inner);
        let is_over =
            |counted: &Counted| now.saturating_duration_since(counted.since) >= self.window;
        if counted.as_ref().is_none_or(is_over) {
            *counted = None;
        }
        let counted = counted.get_or_insert_with(|| Counted {
            since: now,
            total: 0,
            by_client: HashMap::new(),
        });
        let of_client = counted.by_client.get(&client).copied().unwrap_or(0);
        if counted.total >= self.total || of_client >= self.per_client {
            return Err(self.window.saturating_sub(now.saturating_duration_since(counted.since)));
        }
        counted.total += 1;
        counted.by_client.insert(client, of_client + 1);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn counts_end_with_the_window_and_memory_with_the_total() {
        let limits = ClientLimits::new(2, 5, Duration::from_secs(60));
        let client = |n: u8| Client::new(IpAddr::from([192, 0, 2, n]));
        assert!(limits.count(client(1)).is_ok() && limits.count(client(1)).is_ok());
        assert_eq!(limits.count(client(1)), Err(Duration::from_secs(60)));
        for n in 2..=255 {
            assert_eq!(limits.count(client(n)).is_ok(), n <= 4, "{n}");
        }
        assert_eq!(limits.counted.lock().unwrap().as_ref().unwrap().by_client.len(), 4);
        tokio::time::advance(Duration::from_secs(59)).await;
        assert_eq!(limits.count(client(9)), Err(Duration::from_secs(1)));
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!(limits.count(client(1)).is_ok());
    }
}
