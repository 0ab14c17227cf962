//! The load: requests from a process of its own, as wrk would send them.
//!
//! A client in the server's process would share its runtime, where tasks hand over without the kernel, and make the
//! server look twice as fast as real clients see it. The process is this executable again, with [`ARGUMENT`] as its
//! first argument; it reads the rest from its standard input, one line each. It has one thread, and keeps up with two cores:
//! with many more of them it would itself be what is measured.

use std::io::{self, BufRead};
use std::net::SocketAddr;
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::io::AsyncWriteExt;
use tokio::process::Command;
use tokio::task::JoinSet;

use crate::client::{self, Connection};

/// The argument that says: be the client.
pub const ARGUMENT: &str = "client-of-the-bench";

pub struct Load<'a> {
    /// The connections are dealt out to them.
    pub addrs: &'a [SocketAddr],
    pub path: &'a str,
    /// Each request carries the next of them.
    pub tokens: &'a [String],
    pub connections: usize,
    pub time: Duration,
}

impl Load<'_> {
    /// Requests per second. Every answer must be a 200 with a length.
    pub async fn run(&self) -> io::Result<f64> {
        let mut client = Command::new(std::env::current_exe()?)
            .arg(ARGUMENT)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let addrs: Vec<_> = self.addrs.iter().map(SocketAddr::to_string).collect();
        let mut told = format!("{}\n{}\n{}\n", self.connections, self.time.as_millis(), self.path);
        told.push_str(&addrs.join(" "));
        for token in self.tokens {
            told.push('\n');
            told.push_str(token);
        }
        let mut stdin =
            client.stdin.take().ok_or_else(|| io::Error::other("a client without an input"))?;
        stdin.write_all(told.as_bytes()).await?;
        drop(stdin);
        let answer = client.wait_with_output().await?;
        let rate = String::from_utf8_lossy(&answer.stdout);
        rate.trim()
            .parse()
            .map_err(|_| io::Error::other(format!("the client said {rate:?}, {}", answer.status)))
    }
}

/// The client.
#[tokio::main(flavor = "current_thread")]
pub async fn client() -> crate::support::Result<()> {
    let told = io::stdin().lock().lines().collect::<io::Result<Vec<_>>>()?;
    let [connections, millis, path, addrs, tokens @ ..] = &told[..] else {
        return Err("too few lines".into());
    };
    let addrs = addrs.split(' ').map(str::parse).collect::<Result<Vec<SocketAddr>, _>>()?;
    let requests = client::requests(path, tokens).into();
    let rate =
        load(&addrs, &requests, connections.parse()?, Duration::from_millis(millis.parse()?))
            .await?;
    println!("{rate}");
    Ok(())
}

/// What is answered in the first moments, a tenth of the time before it begins to count, is not counted.
async fn load(
    addrs: &[SocketAddr],
    requests: &Arc<[Vec<u8>]>,
    connections: usize,
    time: Duration,
) -> io::Result<f64> {
    let begin = Instant::now() + time / 10;
    let end = begin + time;
    let mut load = JoinSet::new();
    for (number, addr) in addrs.iter().copied().cycle().take(connections).enumerate() {
        let requests = requests.clone();
        load.spawn(async move {
            let mut connection = Connection::open(addr).await?;
            let mut counted: u64 = 0;
            let mut next = number * 7919;
            loop {
                next += 1;
                connection.ask(&requests[next % requests.len()]).await?;
                let now = Instant::now();
                if now >= end {
                    return io::Result::Ok(counted);
                }
                counted += u64::from(now >= begin);
            }
        });
    }
    let mut total = 0;
    while let Some(counted) = load.join_next().await {
        total += counted.map_err(io::Error::other)??;
    }
    Ok(total as f64 / time.as_secs_f64())
}
