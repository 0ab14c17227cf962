//! The end of a handle.

use std::time::Duration;

use tokio::time::timeout;

use crate::engine::agent_keys::{AgentKeys, Inner};

impl AgentKeys {
    /// Waits until every open charge is posted, refuses new ones, and closes the store.
    ///
    /// Call it after the server has shut down gracefully. It has no time limit: it waits for each
    /// [`Charge`](crate::Charge) that the application keeps, and so for each response that streams.
    /// [`shutdown_within`](Self::shutdown_within) has a limit.
    pub async fn shutdown(&self) {
        self.inner.open_charges.close().await;
        self.inner.batches.drain().await;
        self.close_store().await;
    }

    /// Does what [`shutdown`](Self::shutdown) does, and ends the charges that are still open at the
    /// bound.
    ///
    /// At the bound, each open charge is settled:
    ///
    /// - It is charged what was added, or the whole hold where
    ///   [`OnInterrupt`](crate::http::OnInterrupt) says so.
    /// - A response without a head becomes a 503, and the body of a response ends with an error. So
    ///   the client sees that the response was cut off.
    /// - A hold or a payment that its handles still ask for is refused as unavailable. What they
    ///   still add is posted if the store is open, and otherwise logged, for
    ///   [`settle_as`](Self::settle_as).
    ///
    /// It returns when these settles are answered: at once while the store works, and after
    /// [`settle_timeout`](crate::Builder::settle_timeout) while it does not. Charges that could not
    /// be posted are logged.
    ///
    /// Call it when the server begins its graceful shutdown, which waits for the bodies that are
    /// ended here. New charges are refused with 503 from the call on.
    ///
    /// ```
    /// # #[cfg(feature = "axum")] mod serving {
    /// use std::time::Duration;
    ///
    /// async fn serve(app: axum::Router, keys: agentkey::AgentKeys) -> std::io::Result<()> {
    ///     let listener = tokio::net::TcpListener::bind("127.0.0.1:8080").await?;
    ///     let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    ///     let server = axum::serve(listener, app).with_graceful_shutdown(async { drop(stopped.await) });
    ///     let server = tokio::spawn(async { server.await });
    ///
    ///     tokio::signal::ctrl_c().await?;
    ///     drop(stop); // the server accepts no more connections
    ///     keys.shutdown_within(Duration::from_secs(20)).await;
    ///     // A client that does not read keeps its connection, and so the server.
    ///     drop(tokio::time::timeout(Duration::from_secs(5), server).await);
    ///     Ok(())
    /// }
    /// # }
    /// ```
    pub async fn shutdown_within(&self, bound: Duration) {
        let Inner { open_charges, batches, options, .. } = &*self.inner;
        if timeout(bound, open_charges.close()).await.is_err() {
            open_charges.cut_off();
            open_charges.close().await;
        }
        batches.drain().await;
        // A store that hangs must not keep the process.
        if timeout(options.batches.timeout(), self.close_store()).await.is_err() {
            tracing::warn!("agentkey could not close the store in time");
        }
    }

    async fn close_store(&self) {
        self.inner.end_tasks().await;
        self.inner.last_used.write(self.inner.store()).await;
        self.inner.refusals.write(self.inner.store()).await;
        self.inner.store().close().await;
    }
}
