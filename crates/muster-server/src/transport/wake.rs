//! Wake-ups between servers, authenticated by the secret that all servers share.
//!
//! A wake-up is the sender's time (8 bytes, nanoseconds, big endian), a byte for what it is about, and the agents' ids
//! (8 bytes each). Stays true: whoever lacks the secret wakes nobody, over TLS or not; a wake-up that was overheard
//! wakes nobody again (the engine sees to both). Nothing in it is secret.

use super::answer::Answer;
use super::body::{self, Body, Encoding};
use super::connection::Connection;
use super::door::Shared;
use async_trait::async_trait;
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use metrics::counter;
use muster_core::{AgentId, Clock, Timestamp, limits};
use muster_engine::{Engine, WakeUp, Waker};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;
use tracing::debug;

/// Where wake-ups are taken.
pub(super) const PATH: &str = "/muster/wake";
/// The header with the authenticator, in hexadecimal.
const AUTHENTICATOR: &str = "muster-authenticator";
/// How long a wake-up may take; the sweep finds what it was about.
const CALL_MAX: Duration = Duration::from_secs(2);

const TIME_BYTES: usize = 8;
const HEAD_BYTES: usize = TIME_BYTES + 1;
/// What a wake-up is about.
const MESSAGES: u8 = 0;
const LABELS: u8 = 1;
const BROADCASTS: u8 = 2;

/// Answers a wake-up.
pub(super) async fn answer(
    shared: &Shared,
    connection: &Connection,
    request: Request<Incoming>,
) -> Result<Response<Body>, Answer> {
    let (head, incoming) = request.into_parts();
    if head.method != Method::POST {
        let status = StatusCode::METHOD_NOT_ALLOWED;
        return Err(Answer::new(status, "wake-ups are posted").allowing("POST").closing());
    }
    let bytes_max = HEAD_BYTES + limits::WAKE_AGENTS_MAX * AgentId::BYTES;
    if body::announced(&head.headers)? != Encoding::Plain {
        return Err(Answer::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "wake-ups are not deflated").closing());
    }
    let mut share = shared.budget.share();
    let body = body::read_all(incoming, Encoding::Plain, &mut share).await?;
    connection.head_expect();
    if body.len() > bytes_max {
        return Err(Answer::new(StatusCode::PAYLOAD_TOO_LARGE, "too many agents in one wake-up"));
    }
    let authenticator = head.headers.get(AUTHENTICATOR).and_then(|value| hex::decode(value.as_bytes()).ok());
    let authenticator = authenticator.unwrap_or_default();
    let (sent, what) = parse(&body).map_err(Answer::bad_request)?;
    if let Err(refusal) = shared.engine.wake_believe(sent, &body, &authenticator).await {
        counter!("muster_transport_wakeups_refused_total").increment(1);
        return Err(Answer::new(StatusCode::UNAUTHORIZED, refusal.to_string()));
    }
    shared.engine.wake_here(&what);
    let mut response = Response::new(Body::full(Bytes::new()));
    *response.status_mut() = StatusCode::NO_CONTENT;
    Ok(response)
}

fn parse(body: &[u8]) -> Result<(Timestamp, WakeUp), &'static str> {
    let (time, rest) = body.split_first_chunk::<TIME_BYTES>().ok_or("the wake-up is too short")?;
    let (kind, ids) = rest.split_first().ok_or("the wake-up is too short")?;
    let (ids, rest) = ids.as_chunks::<{ AgentId::BYTES }>();
    if !rest.is_empty() {
        return Err("the wake-up ends inside an id");
    }
    let agents = ids.iter().map(|id| AgentId::from_bytes(*id)).collect();
    let what = match *kind {
        MESSAGES => WakeUp::Messages(agents),
        LABELS => WakeUp::Labels(agents),
        BROADCASTS => WakeUp::Broadcasts,
        _ => return Err("the wake-up is about something unknown: use the same version on all servers"),
    };
    Ok((Timestamp::from_nanos(i64::from_be_bytes(*time)), what))
}

/// Writes a wake-up, in as many bodies as its agents need.
fn write(sent: Timestamp, what: &WakeUp) -> Vec<Vec<u8>> {
    let (kind, agents) = match what {
        WakeUp::Messages(agents) => (MESSAGES, &agents[..]),
        WakeUp::Labels(agents) => (LABELS, &agents[..]),
        WakeUp::Broadcasts => return vec![body(sent, BROADCASTS, &[])],
    };
    agents.chunks(limits::WAKE_AGENTS_MAX).map(|agents| body(sent, kind, agents)).collect()
}

fn body(sent: Timestamp, kind: u8, agents: &[AgentId]) -> Vec<u8> {
    let ids = agents.iter().flat_map(AgentId::as_bytes);
    sent.as_nanos().to_be_bytes().iter().chain([&kind]).chain(ids).copied().collect()
}

/// Wakes other servers over HTTP.
///
/// The engine needs it to be made, and it needs the engine for the secret: [`HttpWaker::attach`] closes the circle, and
/// [`HttpWaker::detach`] opens it again, so that a server that has stopped lets go of its database.
#[derive(Debug)]
pub struct HttpWaker {
    client: reqwest::Client,
    clock: Arc<dyn Clock>,
    engine: RwLock<Option<Engine>>,
}

impl HttpWaker {
    /// Makes a waker that is not attached yet and wakes nobody. Servers with `https://` URLs must have a certificate from
    /// one of `authorities` (PEM); no others are trusted. Error: the HTTP client cannot be made.
    pub fn new(clock: Arc<dyn Clock>, authorities: &[&str]) -> Result<Self, reqwest::Error> {
        let mut roots = Vec::new();
        for pem in authorities {
            roots.extend(reqwest::Certificate::from_pem_bundle(pem.as_bytes())?);
        }
        let client = reqwest::Client::builder()
            .tls_certs_only(roots)
            .timeout(CALL_MAX)
            .connect_timeout(CALL_MAX)
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .build()?;
        Ok(Self { client, clock, engine: RwLock::new(None) })
    }

    /// Gives it the engine that knows the secret.
    pub fn attach(&self, engine: Engine) {
        *self.engine.write().unwrap_or_else(PoisonError::into_inner) = Some(engine);
    }

    /// Takes the engine away; from then on nobody is woken.
    pub fn detach(&self) {
        *self.engine.write().unwrap_or_else(PoisonError::into_inner) = None;
    }

    fn attached(&self) -> Option<Engine> {
        self.engine.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    async fn call(&self, url: &str, body: Vec<u8>) -> anyhow::Result<()> {
        let Some(engine) = self.attached() else { return Ok(()) };
        let authenticator = hex::encode(engine.wake_authenticator(url, &body).await?);
        let url = format!("{}{PATH}", url.trim_end_matches('/'));
        let response = self.client.post(url).header(AUTHENTICATOR, authenticator).body(body).send().await?;
        response.error_for_status()?;
        Ok(())
    }
}

#[async_trait]
impl Waker for HttpWaker {
    async fn wake(&self, url: &str, what: &WakeUp) {
        for body in write(self.clock.now(), what) {
            if let Err(error) = self.call(url, body).await {
                counter!("muster_transport_wakeups_lost_total").increment(1);
                debug!(url, error = format!("{error:#}"), "a wake-up was lost");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let agents = vec![AgentId::from_bytes([1; 8]), AgentId::from_bytes([2; 8])];
        let now = Timestamp::from_secs(1_700_000_000);
        for what in [WakeUp::Messages(agents.clone()), WakeUp::Labels(agents), WakeUp::Broadcasts] {
            let bodies = write(now, &what);
            assert_eq!(bodies.len(), 1);
            assert_eq!(parse(&bodies[0]), Ok((now, what)));
        }
        for wrong in [&b"short"[..], &[0; 8], &[0; 10], &[9; 9]] {
            assert!(parse(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn many_agents_are_several_calls() {
        let count =
            |agents: usize| write(Timestamp::EPOCH, &WakeUp::Messages(vec![AgentId::from_bytes([0; 8]); agents])).len();
        assert_eq!([count(0), count(1), count(10_000), count(10_001)], [0, 1, 1, 2]);
    }
}
