//! A proxy between a store and its server.

use std::sync::atomic::{AtomicU16, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::postgres_server::Server;

/// Leads to one server of several, in connections that end when it turns to another.
pub(crate) struct Proxy {
    port: u16,
    to: Arc<AtomicU16>,
    opened: Arc<AtomicUsize>,
    /// Connections before this one bring nothing to the server.
    held: watch::Sender<usize>,
    open: Arc<Mutex<JoinSet<()>>>,
}

impl Proxy {
    pub(crate) async fn to(server: &Server) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (port, to) =
            (listener.local_addr().unwrap().port(), Arc::new(AtomicU16::new(port_of(server))));
        let proxy = Self {
            port,
            to,
            opened: Arc::default(),
            held: watch::Sender::new(0),
            open: Arc::default(),
        };
        let (to, opened, held, open) =
            (proxy.to.clone(), proxy.opened.clone(), proxy.held.clone(), proxy.open.clone());
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (to, number) =
                    (to.load(Ordering::SeqCst), opened.fetch_add(1, Ordering::SeqCst));
                open.lock().unwrap().spawn(lead(client, to, number, held.subscribe()));
            }
        });
        proxy
    }

    pub(crate) fn turn_to(&self, server: &Server) {
        self.to.store(port_of(server), Ordering::SeqCst);
        self.open.lock().unwrap().abort_all();
    }

    /// Holds back what comes on the connections that there are.
    pub(crate) fn hold(&self) {
        self.held.send_replace(self.opened.load(Ordering::SeqCst));
    }

    /// Brings all of it to the server.
    pub(crate) fn release(&self) {
        self.held.send_replace(0);
    }

    pub(crate) fn url(&self, database: &str) -> String {
        format!("postgres://agentkey@127.0.0.1:{}/{database}", self.port)
    }
}

/// Bytes that a client sent before it disconnected still reach the server.
async fn lead(client: TcpStream, to: u16, number: usize, mut held: watch::Receiver<usize>) {
    let Ok(server) = TcpStream::connect(("127.0.0.1", to)).await else { return };
    let ((mut from_client, mut to_client), (mut from_server, mut to_server)) =
        (client.into_split(), server.into_split());
    let there = async move {
        let mut bytes = vec![0; 65_536];
        while let Ok(count @ 1..) = from_client.read(&mut bytes).await {
            let _ = held.wait_for(|before| number >= *before).await;
            if to_server.write_all(&bytes[..count]).await.is_err() {
                break;
            }
        }
        let _ = to_server.shutdown().await;
    };
    let back = async move { drop(tokio::io::copy(&mut from_server, &mut to_client).await) };
    tokio::join!(there, back);
}

fn port_of(server: &Server) -> u16 {
    let options: sqlx::postgres::PgConnectOptions = server.superuser_url().parse().unwrap();
    options.get_port()
}
