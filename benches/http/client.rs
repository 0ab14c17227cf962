//! A small load generator: keep-alive connections, one request at a time on each, no work but the reading.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

/// The requests to choose from: one for each token, or one without.
pub fn requests(path: &str, tokens: &[String]) -> Arc<[Vec<u8>]> {
    let bare = [format!("GET {path} HTTP/1.1\r\nhost: bench\r\n\r\n")];
    let keyed = tokens
        .iter()
        .map(|token| format!("GET {path} HTTP/1.1\r\nhost: bench\r\nauthorization: Bearer {token}\r\n\r\n"));
    if tokens.is_empty() { bare.map(String::into_bytes).into() } else { keyed.map(String::into_bytes).collect() }
}

/// Requests per second over so many connections. Every answer must be a 200 with a length.
pub async fn load(addr: SocketAddr, requests: &Arc<[Vec<u8>]>, connections: usize, time: Duration) -> io::Result<f64> {
    let mut load = JoinSet::new();
    let start = Instant::now();
    for connection in 0..connections {
        let requests = requests.clone();
        load.spawn(async move {
            let mut stream = TcpStream::connect(addr).await?;
            stream.set_nodelay(true)?;
            let mut buffer = Vec::with_capacity(4096);
            let mut done: u64 = 0;
            let mut next = connection * 7919;
            while start.elapsed() < time {
                next += 1;
                stream.write_all(&requests[next % requests.len()]).await?;
                read_answer(&mut stream, &mut buffer).await?;
                done += 1;
            }
            io::Result::Ok(done)
        });
    }
    let mut total = 0;
    while let Some(done) = load.join_next().await {
        total += done.map_err(io::Error::other)??;
    }
    Ok(total as f64 / start.elapsed().as_secs_f64())
}

async fn read_answer(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> io::Result<()> {
    buffer.clear();
    loop {
        if stream.read_buf(buffer).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let text = String::from_utf8_lossy(buffer);
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        if !head.starts_with("HTTP/1.1 200") {
            return Err(io::Error::other(text.into_owned()));
        }
        let length =
            head.lines().find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length: ")?.parse().ok());
        let length: usize = length.ok_or_else(|| io::Error::other("an answer without a length"))?;
        if body.len() >= length {
            return Ok(());
        }
    }
}
