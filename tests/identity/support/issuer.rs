//! An issuer on a socket of this machine, which answers as a test says.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

/// How a path is answered.
#[derive(Clone)]
pub(crate) enum Answer {
    Json(String),
    Status(u16),
    Redirect(String),
    /// The whole request is read, and nothing is sent.
    Hang,
    /// JSON without an end, in chunks.
    Endless,
    /// JSON of 10 MB, whose length is in the head.
    TenMegabytes,
    /// JSON, sent when the test gives the word.
    Later(Arc<Semaphore>, String),
}

/// An issuer that listens. Clones are the same one.
#[derive(Clone)]
pub(crate) struct Issuer {
    addr: SocketAddr,
    shared: Arc<Mutex<Shared>>,
}

#[derive(Default)]
struct Shared {
    answers: HashMap<String, Answer>,
    /// Each request with its head and body.
    requests: Vec<String>,
    bytes_sent: usize,
}

impl Issuer {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let issuer = Self { addr: listener.local_addr().unwrap(), shared: Arc::default() };
        let serving = issuer.clone();
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let serving = serving.clone();
                // A client that goes away is no failure of the issuer.
                tokio::spawn(async move { drop(serving.serve(stream).await) });
            }
        });
        issuer
    }

    /// An issuer that publishes a key set at `/keys`.
    pub(crate) async fn with_keys(keys: String) -> Self {
        let issuer = Self::start().await;
        issuer.answer("/keys", Answer::Json(keys));
        issuer
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.addr)
    }

    pub(crate) fn answer(&self, path: &str, answer: Answer) {
        self.shared.lock().unwrap().answers.insert(path.to_owned(), answer);
    }

    /// How many requests came for a path.
    pub(crate) fn count(&self, path: &str) -> usize {
        let is_for = |request: &&String| request.split(' ').nth(1) == Some(path);
        self.shared.lock().unwrap().requests.iter().filter(is_for).count()
    }

    pub(crate) fn requests(&self) -> Vec<String> {
        self.shared.lock().unwrap().requests.clone()
    }

    pub(crate) fn bytes_sent(&self) -> usize {
        self.shared.lock().unwrap().bytes_sent
    }

    async fn serve(&self, mut stream: TcpStream) -> std::io::Result<()> {
        let request = read_request(&mut stream).await?;
        let path = request.split(' ').nth(1).unwrap_or_default().to_owned();
        let answer = {
            let mut shared = self.shared.lock().unwrap();
            shared.requests.push(request);
            shared.answers.get(&path).cloned().unwrap_or(Answer::Status(404))
        };
        let json = |body: &str| {
            let head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nconnection: close";
            format!("{head}\r\ncontent-length: {}\r\n\r\n{body}", body.len())
        };
        let text = match answer {
            Answer::Json(body) => json(&body),
            Answer::Status(status) => {
                format!("HTTP/1.1 {status} x\r\nconnection: close\r\ncontent-length: 0\r\n\r\n")
            }
            Answer::Redirect(to) => format!(
                "HTTP/1.1 302 x\r\nlocation: {to}\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
            ),
            Answer::Hang => std::future::pending().await,
            Answer::Endless => return self.send_endless(stream).await,
            Answer::TenMegabytes => json(&format!("{{\"keys\":[{}", " ".repeat(10_000_000))),
            Answer::Later(word, body) => {
                word.acquire().await.unwrap().forget();
                json(&body)
            }
        };
        stream.write_all(text.as_bytes()).await?;
        stream.shutdown().await
    }

    async fn send_endless(&self, mut stream: TcpStream) -> std::io::Result<()> {
        let head = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nb\r\n{\"keys\":[  \r\n";
        stream.write_all(head.as_bytes()).await?;
        let chunk = format!("10000\r\n{}\r\n", " ".repeat(0x1_0000));
        loop {
            stream.write_all(chunk.as_bytes()).await?;
            self.shared.lock().unwrap().bytes_sent += chunk.len();
        }
    }
}

async fn read_request(stream: &mut TcpStream) -> std::io::Result<String> {
    let (mut request, mut buffer) = (String::new(), [0; 4_096]);
    loop {
        let len = stream.read(&mut buffer).await?;
        request.push_str(std::str::from_utf8(&buffer[..len]).unwrap());
        if let Some((head, body)) = request.split_once("\r\n\r\n") {
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
            if body.len() >= length.map_or(0, |length| length.parse().unwrap()) {
                return Ok(request);
            }
        }
        if len == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
    }
}
