//! A small HTTP client: a keep-alive connection, one request at a time.
//!
//! It shares its cores with what it measures, so it does no more than it must to know that an answer is whole.

use std::io;
use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// The requests to choose from: one for each token, or one without.
pub fn requests(path: &str, tokens: &[String]) -> Vec<Vec<u8>> {
    let bare = [format!("GET {path} HTTP/1.1\r\nhost: bench\r\n\r\n")];
    let keyed = tokens.iter().map(|token| {
        format!("GET {path} HTTP/1.1\r\nhost: bench\r\nauthorization: Bearer {token}\r\n\r\n")
    });
    if tokens.is_empty() {
        bare.map(String::into_bytes).to_vec()
    } else {
        keyed.map(String::into_bytes).collect()
    }
}

/// A keep-alive connection.
pub struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Connection {
    pub async fn open(addr: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(addr).await?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, buffer: vec![0; 4096] })
    }

    /// Sends a request and reads its answer.
    pub async fn ask(&mut self, request: &[u8]) -> io::Result<()> {
        self.stream.write_all(request).await?;
        let mut filled = 0;
        loop {
            match self.stream.read(&mut self.buffer[filled..]).await? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                read => filled += read,
            }
            if is_whole(&self.buffer[..filled])? {
                return Ok(());
            }
        }
    }
}

fn is_whole(answer: &[u8]) -> io::Result<bool> {
    const END: &[u8; 4] = b"\r\n\r\n";
    let Some(head) = answer.windows(END.len()).position(|part| part == END) else {
        return Ok(false);
    };
    if !answer.starts_with(b"HTTP/1.1 200 ") {
        return Err(io::Error::other(String::from_utf8_lossy(answer)));
    }
    let length = content_length(&answer[..head])
        .ok_or_else(|| io::Error::other("an answer without a length"))?;
    Ok(answer.len() >= head + END.len() + length)
}

/// hyper writes names in lower case.
fn content_length(head: &[u8]) -> Option<usize> {
    const NAME: &[u8; 18] = b"\r\ncontent-length: ";
    let value = head.windows(NAME.len()).position(|part| part == NAME)? + NAME.len();
    let digits = head[value..].iter().take_while(|byte| byte.is_ascii_digit());
    Some(digits.fold(0, |length, digit| length * 10 + usize::from(digit - b'0')))
}
