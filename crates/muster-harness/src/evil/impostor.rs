//! A server of the operators that was taken over: it answers the command line whatever it likes, and writes down what it
//! was told.

use anyhow::{Context, Result};
use serde_json::Value;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// Bytes of a request.
const REQUEST_BYTES_MAX: usize = 16 * 1024 * 1024;

/// What it was asked.
#[derive(Debug, Clone)]
pub struct Asked {
    /// The method and the path with its query, such as `GET /api/v1/agents?limit=1`.
    pub line: String,
    /// The body, as text.
    pub body: String,
}

type Answer = dyn Fn(&Asked) -> Option<String> + Send + Sync;

/// The server.
pub struct Impostor {
    /// Its address.
    pub url: String,
    asked: Arc<Mutex<Vec<Asked>>>,
    accepting: JoinHandle<()>,
}

impl std::fmt::Debug for Impostor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Impostor").field("url", &self.url).finish_non_exhaustive()
    }
}

impl Impostor {
    /// Starts one that gives `answer` to what it is asked; `None` is 404.
    pub async fn start(answer: impl Fn(&Asked) -> Option<String> + Send + Sync + 'static) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await.context("binding a port")?;
        let url = format!("http://{}", listener.local_addr().context("reading the port")?);
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (log, answer): (_, Arc<Answer>) = (Arc::clone(&asked), Arc::new(answer));
        let accepting = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (log, answer) = (Arc::clone(&log), Arc::clone(&answer));
                // Whoever goes away amid a request is not answered.
                tokio::spawn(async move { _ = serve(stream, &log, &*answer).await });
            }
        });
        Ok(Self { url, asked, accepting })
    }

    /// Returns what it was asked so far.
    pub fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Returns every signature that it got hold of, in whatever it was told.
    pub fn signatures(&self) -> Vec<String> {
        let mut found = Vec::new();
        for asked in self.asked() {
            if let Ok(body) = serde_json::from_str(&asked.body) {
                collect(&body, &mut found);
            }
        }
        found
    }
}

/// Finds signatures, also in texts that are JSON themselves.
fn collect(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::Object(members) => {
            for (key, member) in members {
                match (key.as_str(), member) {
                    ("pgpsignatures", Value::Array(lines)) => found.extend(lines.iter().map(ToString::to_string)),
                    ("signature", Value::String(line)) => found.push(line.clone()),
                    _ => collect(member, found),
                }
            }
        }
        Value::Array(members) => members.iter().for_each(|member| collect(member, found)),
        Value::String(text) => {
            if let Ok(inner @ (Value::Object(_) | Value::Array(_))) = serde_json::from_str(text) {
                collect(&inner, found);
            }
        }
        _ => {}
    }
}

impl Drop for Impostor {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn serve(mut stream: TcpStream, log: &Mutex<Vec<Asked>>, answer: &Answer) -> Result<()> {
    let mut input = Vec::new();
    loop {
        let Some(asked) = request(&mut stream, &mut input).await? else { return Ok(()) };
        let said = answer(&asked);
        log.lock().unwrap_or_else(PoisonError::into_inner).push(asked);
        let (status, body) = said.map_or(("404 Not Found", "{}".to_owned()), |body| ("200 OK", body));
        let head =
            format!("HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n", body.len());
        stream.write_all(&[head.as_bytes(), body.as_bytes()].concat()).await.context("answering")?;
    }
}

/// Reads a request; `None` when the caller is gone.
async fn request(stream: &mut TcpStream, input: &mut Vec<u8>) -> Result<Option<Asked>> {
    loop {
        if let Some(end) = input.windows(4).position(|window| window == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&input[..end]).into_owned();
            let length = head.lines().find_map(|line| {
                let (name, value) = line.split_once(':')?;
                name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().ok())?
            });
            let whole = end + 4 + length.unwrap_or(0);
            if input.len() >= whole {
                let body = String::from_utf8_lossy(&input[end + 4..whole]).into_owned();
                input.drain(..whole);
                let line = head.lines().next().unwrap_or_default();
                let line = line.rsplit_once(' ').map_or(line, |(line, _)| line).to_owned();
                return Ok(Some(Asked { line, body }));
            }
        }
        anyhow::ensure!(input.len() <= REQUEST_BYTES_MAX, "a request has no end");
        if stream.read_buf(input).await.context("reading a request")? == 0 {
            return Ok(None);
        }
    }
}
