//! A proxy in front of PostgreSQL that reads along and cuts a connection at a message of the test's choice.

use crate::stage::Place;
use std::sync::{Arc, Mutex};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio_postgres::config::Host;

/// A way to the server and back.
trait Link: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Link for T {}

/// At which message of the client a connection is cut.
#[derive(Debug, Clone, Copy)]
pub(crate) enum At {
    /// At the next COMMIT.
    Commit,
    /// After so many more messages of any kind.
    Message(u32),
}

/// On which side of the message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    /// The server never sees it.
    Before,
    /// The server has done it and answered; the client never hears of it.
    After,
}

type Plan = Arc<Mutex<Option<(At, Side)>>>;

/// The proxy. It ends with the runtime of its test.
pub(crate) struct Proxy {
    url: String,
    plan: Plan,
}

impl Proxy {
    /// Starts one in front of the server of `place`.
    pub(crate) async fn before(place: &Place) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (scheme, rest) = place.url.split_once("://").unwrap();
        let (authority, path) = rest.split_once('/').unwrap();
        let user = authority.rsplit_once('@').map_or("postgres", |(user, _)| user);
        let url = format!("{scheme}://{user}@127.0.0.1:{port}/{path}");
        let plan = Plan::default();
        tokio::spawn(accept(listener, place.url.parse().unwrap(), Arc::clone(&plan)));
        Self { url, plan }
    }

    /// The URL of the same place through the proxy.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// Cuts one connection.
    pub(crate) fn cut(&self, at: At, side: Side) {
        *self.plan.lock().unwrap() = Some((at, side));
    }

    /// Cuts nothing any more. `true`: nothing was cut.
    pub(crate) fn disarm(&self) -> bool {
        self.plan.lock().unwrap().take().is_some()
    }
}

async fn accept(listener: TcpListener, server: tokio_postgres::Config, plan: Plan) {
    while let Ok((client, _)) = listener.accept().await {
        let port = server.get_ports().first().copied().unwrap_or(5432);
        let upstream: Box<dyn Link> = match &server.get_hosts()[0] {
            Host::Tcp(host) => Box::new(TcpStream::connect((host.as_str(), port)).await.unwrap()),
            Host::Unix(path) => Box::new(UnixStream::connect(path.join(format!(".s.PGSQL.{port}"))).await.unwrap()),
        };
        let plan = Arc::clone(&plan);
        tokio::spawn(async move { pass(client, upstream, &plan).await });
    }
}

/// Passes bytes on until either side ends or the plan says so; then both ends are closed at once.
async fn pass(mut client: TcpStream, mut upstream: Box<dyn Link>, plan: &Plan) {
    let (mut asked, mut started) = (Vec::new(), false);
    let (mut from_client, mut from_server) = (vec![0; 16 * 1024], vec![0; 16 * 1024]);
    loop {
        tokio::select! {
            read = client.read(&mut from_client) => {
                let Ok(bytes @ 1..) = read else { return };
                asked.extend_from_slice(&from_client[..bytes]);
                while let Some(message) = take_message(&mut asked, &mut started) {
                    let cut = judge(plan, &message);
                    if cut == Some(Side::Before) || upstream.write_all(&message).await.is_err() {
                        return;
                    }
                    if cut == Some(Side::After) {
                        return until_ready(upstream.as_mut()).await;
                    }
                }
            }
            read = upstream.read(&mut from_server) => {
                let Ok(bytes @ 1..) = read else { return };
                if client.write_all(&from_server[..bytes]).await.is_err() {
                    return;
                }
            }
        }
    }
}

/// Takes one whole message of the client. The first of a connection has no letter.
fn take_message(asked: &mut Vec<u8>, started: &mut bool) -> Option<Vec<u8>> {
    let letter = usize::from(*started);
    let length = asked.get(letter..letter + 4)?;
    let length = u32::from_be_bytes(length.try_into().expect("four bytes")) as usize + letter;
    if asked.len() < length {
        return None;
    }
    *started = true;
    Some(asked.drain(..length).collect())
}

/// Says whether the connection is cut at this message, and disarms the plan if so.
fn judge(plan: &Plan, message: &[u8]) -> Option<Side> {
    let mut plan = plan.lock().unwrap();
    let (at, side) = plan.as_mut()?;
    let (cut, side) = match at {
        At::Commit => (message[0] == b'Q' && &message[5..] == b"COMMIT\0", *side),
        At::Message(left) => {
            let cut = *left == 0;
            *left = left.saturating_sub(1);
            (cut, *side)
        }
    };
    if cut {
        *plan = None;
    }
    cut.then_some(side)
}

/// Reads the server's answers until it is ready for the next message outside of a transaction.
async fn until_ready(upstream: &mut dyn Link) {
    let mut answers = Vec::new();
    let mut bytes = [0; 1024];
    while !answers.ends_with(b"Z\0\0\0\x05I") {
        match upstream.read(&mut bytes).await {
            Ok(read @ 1..) => answers.extend_from_slice(&bytes[..read]),
            _ => return,
        }
    }
}
