//! The page of this machine: what it was asked, over HTTP on the loopback interface, for whoever sits at it.
//!
//! Stays true: it shows and changes nothing; it answers only to a name of this machine, so that no page of the web can
//! read it through a browser. However many look, the disk is read by one at a time and once in [`SEEN_AGE_MAX`]. Off
//! unless configured, because every user of the machine can read it.

use super::html;
use super::status::{Report, Show};
use crate::config::Config;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Mutex, Semaphore};
use tokio::time::Instant;

/// Visitors at once.
const VISITORS_MAX: usize = 4;
/// Bytes of a request's head.
const HEAD_BYTES_MAX: usize = 8 * 1024;
/// How long a visit may take.
const VISIT_MAX: Duration = Duration::from_secs(10);

/// How old what is shown may be.
const SEEN_AGE_MAX: Duration = Duration::from_secs(1);

/// What visitors are shown.
#[derive(Debug)]
struct Shown {
    page: String,
    json: String,
}

/// What was last seen, and when.
#[derive(Debug)]
struct Seen {
    config: Arc<Config>,
    last: Mutex<Option<(Instant, Arc<Shown>)>>,
}

impl Seen {
    fn new(config: Arc<Config>) -> Self {
        Self { config, last: Mutex::default() }
    }

    /// Returns what is to be shown, looked at anew when it is too old. `None` when it cannot be read.
    async fn shown(&self) -> Option<Arc<Shown>> {
        // Held while it is read: the others wait, and see the same.
        let mut last = self.last.lock().await;
        if let Some((_, shown)) = last.as_ref().filter(|(at, _)| at.elapsed() < SEEN_AGE_MAX) {
            return Some(Arc::clone(shown));
        }
        let config = Arc::clone(&self.config);
        let read = tokio::task::spawn_blocking(move || {
            let report = Report::read(&config, Show::All).ok()?;
            Some(Arc::new(Shown { page: html::page(&report), json: report.json() }))
        });
        let shown = read.await.ok().flatten()?;
        *last = Some((Instant::now(), Arc::clone(&shown)));
        Some(shown)
    }
}

/// Serves the page until it is dropped.
pub(crate) async fn serve(address: SocketAddr, config: Arc<Config>) {
    let listener = match TcpListener::bind(address).await {
        Ok(listener) => listener,
        Err(error) => {
            tracing::error!(%address, %error, "cannot serve the page of this machine (status_page)");
            return;
        }
    };
    let bound = listener.local_addr().unwrap_or(address);
    tracing::info!(address = %bound, "the page of this machine is at http://{bound}/");
    let places = Arc::new(Semaphore::new(VISITORS_MAX));
    let seen = Arc::new(Seen::new(config));
    loop {
        let place = Arc::clone(&places).acquire_owned().await.expect("the semaphore is never closed");
        let Ok((visitor, _)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let seen = Arc::clone(&seen);
        tokio::spawn(async move {
            // A visitor who went away, or takes too long, is no concern of ours.
            let _ = tokio::time::timeout(VISIT_MAX, answer(visitor, &seen)).await;
            drop(place);
        });
    }
}

async fn answer(mut visitor: TcpStream, seen: &Seen) -> io::Result<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        if head.len() >= HEAD_BYTES_MAX {
            return Ok(());
        }
        head.push(visitor.read_u8().await?);
    }
    let (status, kind, body) = match asked(&String::from_utf8_lossy(&head)) {
        Ok(form) => match (seen.shown().await, form) {
            (Some(shown), Form::Page) => ("200 OK", "text/html; charset=utf-8", shown.page.clone()),
            (Some(shown), Form::Json) => ("200 OK", "application/json", shown.json.clone()),
            (None, _) => ("503 Service Unavailable", "text/plain", "the ledger cannot be read\n".to_owned()),
        },
        Err(status) => (status, "text/plain", format!("{status}\n")),
    };
    let length = body.len();
    let answer = format!(
        "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\nConnection: close\r\n\
         Cache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\nReferrer-Policy: no-referrer\r\n\
         Cross-Origin-Resource-Policy: same-origin\r\nContent-Security-Policy: {}\r\n\r\n{body}",
        html::policy()
    );
    visitor.write_all(answer.as_bytes()).await?;
    visitor.shutdown().await
}

#[derive(Debug, PartialEq, Eq)]
enum Form {
    Page,
    Json,
}

/// Reads the head of a request. An error is the status to answer with.
fn asked(head: &str) -> Result<Form, &'static str> {
    let mut lines = head.split("\r\n");
    let mut words = lines.next().unwrap_or_default().split(' ');
    let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let hosts: Vec<&str> = lines
        .filter_map(|line| line.split_once(':'))
        .filter(|(name, _)| name.eq_ignore_ascii_case("host"))
        .map(|(_, value)| value.trim())
        .collect();
    // Another name that leads here belongs to a page that wants to look at what is not its own.
    let [host] = hosts[..] else { return Err("400 Bad Request") };
    let name = host.rsplit_once(':').map_or(host, |(name, _)| name);
    if !["localhost", "127.0.0.1", "[::1]"].contains(&name) {
        return Err("403 Forbidden");
    }
    match (method, path) {
        ("GET", "/") => Ok(Form::Page),
        ("GET", "/status.json") => Ok(Form::Json),
        ("GET", _) => Err("404 Not Found"),
        _ => Err("405 Method Not Allowed"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_disk_is_read_once_in_a_while_however_many_look() {
        let directory = tempfile::tempdir().unwrap();
        let config = Config { state_dir: directory.path().into(), ..Config::default() };
        let config = Config { keyring_dir: "".into(), acl_file: "".into(), administrators_dir: "".into(), ..config };
        let acl_file = directory.path().join("acl.cfg");
        let seen = Seen::new(Arc::new(Config { acl_file: acl_file.clone(), ..config }));
        let first = seen.shown().await.unwrap();
        std::fs::write(&acl_file, "xx").unwrap();
        let (one, other) = tokio::join!(seen.shown(), seen.shown());
        assert!(Arc::ptr_eq(&one.unwrap(), &first) && Arc::ptr_eq(&other.unwrap(), &first));
        tokio::time::advance(SEEN_AGE_MAX).await;
        let (one, other) = tokio::join!(seen.shown(), seen.shown());
        let (one, other) = (one.unwrap(), other.unwrap());
        assert!(Arc::ptr_eq(&one, &other) && one.page.contains("cannot be used"), "{}", one.page);
    }

    #[test]
    fn only_this_machines_own_names_are_answered() {
        let head = |line: &str, host: &str| asked(&format!("{line} HTTP/1.1\r\nHost: {host}\r\n\r\n"));
        for host in ["localhost", "127.0.0.1:51664", "localhost:1", "[::1]:80"] {
            assert_eq!(head("GET /", host), Ok(Form::Page), "{host}");
        }
        for host in ["evil.example", "127.0.0.1.evil.example:51664", "", "192.0.2.1"] {
            assert_eq!(head("GET /", host), Err("403 Forbidden"), "{host}");
        }
        assert_eq!(asked("GET / HTTP/1.1\r\n\r\n"), Err("400 Bad Request"));
        assert_eq!(asked("GET / HTTP/1.1\r\nHost: localhost\r\nHost: evil\r\n\r\n"), Err("400 Bad Request"));
        assert_eq!(head("GET /status.json", "localhost"), Ok(Form::Json));
        assert_eq!(head("POST /", "localhost"), Err("405 Method Not Allowed"));
        assert_eq!(head("GET /shutdown", "localhost"), Err("404 Not Found"));
    }
}
