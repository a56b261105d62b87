//! Polling: one request now and then, sooner while something is going on.

use super::connect::{Body, Connection};
use super::pace::Pace;
use super::stream::first_words;
use super::{ContactError, Ended, Introducer, Link};
use crate::keys::Identity;
use flate2::write::ZlibEncoder;
use http::StatusCode;
use http::header::{CONTENT_ENCODING, HeaderValue};
use http_body_util::{BodyExt, Limited};
use muster_core::limits;
use muster_proto::wire;
use prost::Message as _;
use std::io::Write;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::time::Instant;

/// Bytes of messages in one poll.
const POLL_BYTES_MAX: usize = 15 * 1024 * 1024;
/// How long one poll may take: a little longer than the five minutes that the original gives it.
const POLL_MAX: Duration = Duration::from_secs(330);
/// How long a connection is kept for the next poll; the original's server closes after 30 s.
const IDLE_MAX: Duration = Duration::from_secs(20);

/// Polls until something fails or the agent stops. The first poll is at once.
pub(super) async fn session(link: &Link, revoked_due: &mut Instant, contacts: &mut u32) -> Result<Ended, ContactError> {
    let mut identity = link.identity.clone();
    let mut connection: Option<Connection> = None;
    let mut pace = Pace {
        longest: link.config.poll_max.0,
        buffer: link.config.buffer_max.0,
        polled: Instant::now(),
        active: Some(Instant::now()),
    };
    loop {
        let current = identity.borrow_and_update().clone();
        if connection.as_ref().is_some_and(|kept| !kept.is_open() || pace.polled.elapsed() > IDLE_MAX) {
            connection = None;
        }
        let polled = tokio::select! {
            polled = poll(link, &current, &mut connection, (revoked_due, false)) => polled?,
            () = link.stop.cancelled() => return Ok(Ended::Stopping),
        };
        *contacts += 1;
        pace.polled = Instant::now();
        if polled.brought_messages {
            pace.active = Some(pace.polled);
        }
        if polled.more_waits {
            continue;
        }
        tokio::select! {
            () = wait_for_turn(link, &mut pace) => {}
            _ = identity.changed() => connection = None,
            () = link.stop.cancelled() => {
                // What the services said last has one more chance.
                let last = poll(link, &current, &mut connection, (revoked_due, true));
                let _ = tokio::time::timeout(Duration::from_secs(2), last).await;
                return Ok(Ended::Stopping);
            }
        }
    }
}

async fn wait_for_turn(link: &Link, pace: &mut Pace) {
    let outbox = link.hub.outbox();
    let jitter = link.random.unit();
    let mut background_since = None;
    loop {
        let now = Instant::now();
        if outbox.has_ready(true) {
            pace.active = Some(now);
        } else if outbox.has_ready(false) {
            background_since.get_or_insert(now);
        }
        let due = pace.due(background_since, jitter);
        if due <= now {
            return;
        }
        tokio::select! {
            () = tokio::time::sleep_until(due) => return,
            () = outbox.ready() => {}
        }
    }
}

/// What came of a poll.
pub(super) struct Polled {
    pub(super) brought_messages: bool,
    pub(super) more_waits: bool,
}

/// Polls once, over the kept connection or a new one; `leaving` says that the agent stops.
pub(super) async fn poll(
    link: &Link,
    identity: &Identity,
    kept: &mut Option<Connection>,
    (revoked_due, leaving): (&mut Instant, bool),
) -> Result<Polled, ContactError> {
    let outbox = link.hub.outbox();
    let messages = outbox.take(limits::CONTACT_MESSAGES_MAX, POLL_BYTES_MAX);
    let ids: Vec<_> = messages.iter().map(|message| message.id).collect();
    let given_back = GiveBack { link, ids: &ids };
    let more_waits = ids.len() == limits::CONTACT_MESSAGES_MAX;
    let mut contact = link.contact(&messages, link.hub.tokens_at_start().1);
    if leaving {
        contact.muster_introduction = Introducer::last_words();
    }
    let contact = contact.encode_to_vec();
    drop(messages);
    let answer = loop {
        let reused = kept.is_some();
        let connection = match kept {
            Some(connection) => connection,
            None => kept.insert(link.dialer.dial(identity).await.map_err(ContactError::Dial)?),
        };
        let result = match link.fetch_revoked(connection, revoked_due).await {
            Ok(false) => exchange(link, connection, &contact).await,
            Ok(true) => {
                *kept = None;
                continue;
            }
            Err(error) => Err(error),
        };
        match result {
            Ok(answer) => break answer,
            // The server may have closed the connection in the pause; that says nothing about a new one.
            Err(ContactError::Broken { .. }) if reused => *kept = None,
            Err(ContactError::Refused {
                status: StatusCode::BAD_REQUEST | StatusCode::UNSUPPORTED_MEDIA_TYPE, ..
            }) if link.deflates_polls() => {
                tracing::info!("the server cannot read deflated polls; sending them plain from now on");
                link.plain_polls.store(true, Ordering::Relaxed);
                *kept = None;
            }
            Err(error) => {
                *kept = None;
                return Err(error);
            }
        }
    };
    given_back.keep();
    link.introducer.is_taken(identity.id);
    link.state.set_nonce(answer.sequencing_nonce);
    outbox.acknowledge(&ids);
    let server = kept.as_ref().map_or("", |connection| connection.server());
    link.standing.good(server);
    let brought_messages = !answer.messages.is_empty();
    link.take_in(identity.id, server, answer);
    Ok(Polled { brought_messages, more_waits })
}

/// Gives messages back when a poll fails or is cut off in the middle.
struct GiveBack<'a> {
    link: &'a Link,
    ids: &'a [crate::spool::SpoolId],
}

impl GiveBack<'_> {
    /// The server has them: nothing is given back.
    fn keep(mut self) {
        self.ids = &[];
    }
}

impl Drop for GiveBack<'_> {
    fn drop(&mut self) {
        self.link.hub.outbox().release(self.ids);
    }
}

async fn exchange(link: &Link, connection: &mut Connection, contact: &[u8]) -> Result<wire::ContactData, ContactError> {
    let server = connection.server().to_owned();
    let broken = |error: hyper::Error| ContactError::broken(&server, "polling", error);
    let deflated = link.deflates_polls();
    let body = if deflated {
        deflate(contact).map_err(|error| ContactError::broken(&server, "packing", error))?
    } else {
        contact.to_vec()
    };
    let mut request = connection.request(http::Method::POST, "/message", Body::whole(body.into()));
    if deflated {
        request.headers_mut().insert(CONTENT_ENCODING, HeaderValue::from_static("deflate"));
    }
    let answer = tokio::time::timeout(POLL_MAX, async {
        let response = connection.send(request).await.map_err(broken)?;
        let status = response.status();
        link.standing.head(response.headers());
        if status != StatusCode::OK {
            let text = first_words(response.into_body()).await;
            return Err(ContactError::Refused { server: server.clone(), status, text });
        }
        let body = Limited::new(response.into_body(), limits::CONTACT_BYTES_MAX).collect().await;
        body.map_err(|error| ContactError::broken(&server, "reading the answer", error))
    });
    let body = answer.await.map_err(|_| ContactError::Slow { server: server.clone(), after: POLL_MAX })??;
    wire::ContactData::decode(body.to_bytes())
        .map_err(|error| ContactError::Unreadable { server: server.clone(), reason: error.to_string() })
}

fn deflate(bytes: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut encoder = ZlibEncoder::new(Vec::with_capacity(bytes.len() / 2 + 64), flate2::Compression::fast());
    encoder.write_all(bytes)?;
    encoder.finish()
}
