//! Wake-ups between servers: "something is due for these agents", authenticated by the secret that all servers share.
//!
//! A wake-up is the sender's time (8 bytes, nanoseconds, big endian) and the agents' ids (8 bytes each); none means that
//! broadcasts changed. Stays true: whoever lacks the secret wakes nobody; an old wake-up wakes nobody again.

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
use muster_engine::{Engine, Waker};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;
use tracing::debug;

/// Where wake-ups are taken.
pub(super) const PATH: &str = "/muster/wake";
/// The header with the authenticator, in hexadecimal.
const AUTHENTICATOR: &str = "muster-authenticator";
/// How far the clocks of two servers may be apart.
const AGE_MAX: Duration = Duration::from_mins(2);
/// How long a wake-up may take; the sweep finds what it was about.
const CALL_MAX: Duration = Duration::from_secs(2);

const TIME_BYTES: usize = 8;

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
    let bytes_max = TIME_BYTES + limits::WAKE_AGENTS_MAX * AgentId::BYTES;
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
    if authenticator.is_empty() || !shared.engine.wake_authentic(&body, &authenticator).await {
        counter!("muster_transport_wakeups_refused_total").increment(1);
        return Err(Answer::new(StatusCode::UNAUTHORIZED, "the wake-up is not from a server of this cluster"));
    }
    let (sent, agents) = parse(&body).map_err(Answer::bad_request)?;
    let now = shared.clock.now();
    if now.since(sent).max(sent.since(now)) > AGE_MAX {
        return Err(Answer::new(StatusCode::UNAUTHORIZED, "the wake-up is too old: compare the clocks of the servers"));
    }
    shared.engine.wake_here(&agents);
    let mut response = Response::new(Body::full(Bytes::new()));
    *response.status_mut() = StatusCode::NO_CONTENT;
    Ok(response)
}

fn parse(body: &[u8]) -> Result<(Timestamp, Vec<AgentId>), &'static str> {
    let (time, ids) = body.split_first_chunk::<TIME_BYTES>().ok_or("the wake-up is too short")?;
    let (ids, rest) = ids.as_chunks::<{ AgentId::BYTES }>();
    if !rest.is_empty() {
        return Err("the wake-up ends inside an id");
    }
    let agents = ids.iter().map(|id| AgentId::from_bytes(*id)).collect();
    Ok((Timestamp::from_nanos(i64::from_be_bytes(*time)), agents))
}

fn write(sent: Timestamp, agents: &[AgentId]) -> Vec<u8> {
    let ids = agents.iter().flat_map(AgentId::as_bytes);
    sent.as_nanos().to_be_bytes().iter().chain(ids).copied().collect()
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
    /// Makes a waker that is not attached yet and wakes nobody. Error: the HTTP client cannot be made.
    pub fn new(clock: Arc<dyn Clock>) -> Result<Self, reqwest::Error> {
        let client = reqwest::Client::builder()
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

    async fn call(&self, url: &str, agents: &[AgentId]) -> anyhow::Result<()> {
        let Some(engine) = self.attached() else { return Ok(()) };
        let body = write(self.clock.now(), agents);
        let authenticator = hex::encode(engine.wake_authenticator(&body).await?);
        let url = format!("{}{PATH}", url.trim_end_matches('/'));
        let response = self.client.post(url).header(AUTHENTICATOR, authenticator).body(body).send().await?;
        response.error_for_status()?;
        Ok(())
    }
}

#[async_trait]
impl Waker for HttpWaker {
    async fn wake(&self, url: &str, agents: &[AgentId]) {
        for agents in batches(agents) {
            if let Err(error) = self.call(url, agents).await {
                counter!("muster_transport_wakeups_lost_total").increment(1);
                debug!(url, error = format!("{error:#}"), "a wake-up was lost");
            }
        }
    }
}

/// Agents in calls; one call without agents when there are none.
fn batches(agents: &[AgentId]) -> impl Iterator<Item = &[AgentId]> {
    let none = agents.is_empty().then_some(agents);
    none.into_iter().chain(agents.chunks(limits::WAKE_AGENTS_MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let agents = [AgentId::from_bytes([1; 8]), AgentId::from_bytes([2; 8])];
        let now = Timestamp::from_secs(1_700_000_000);
        assert_eq!(parse(&write(now, &agents)), Ok((now, agents.to_vec())));
        assert_eq!(parse(&write(now, &[])), Ok((now, vec![])));
        assert!(parse(&write(now, &agents)[..20]).is_err());
        assert!(parse(b"short").is_err());
    }

    #[test]
    fn no_agents_are_one_call_and_many_are_several() {
        let count = |agents: usize| batches(&vec![AgentId::from_bytes([0; 8]); agents]).count();
        assert_eq!([count(0), count(1), count(10_000), count(10_001)], [1, 1, 1, 2]);
    }
}
