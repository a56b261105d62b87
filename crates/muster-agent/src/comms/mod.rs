//! Keeping in touch: one loop that streams or polls, and comes back after whatever went wrong.
//!
//! Stays true: tries never end; a failure waits longer each time, with jitter; a message taken from the outbox is
//! either acknowledged by a server or given back.

mod check_in;
mod connect;
mod introduction;
mod pace;
mod poll;
mod stream;

pub(crate) use connect::{Body, Connection, DialError, Dialer};
pub(crate) use introduction::Introducer;

use crate::chain::Chain;
use crate::config::{Compression, Config, Mode};
use crate::hub::Hub;
use crate::keys::Identity;
use crate::revocations::Revocations;
use crate::revoked::{LIST_BYTES_MAX, ListError, Revoked, RevokedList};
use crate::standing::{Outcome, StandingBook};
use crate::state::StateFile;
use crate::world::Random;
use http_body_util::{BodyExt, Limited};
use muster_core::{AgentId, Clock, limits, retry, system};
use muster_proto::{convert, wire};
use prost::Message as _;
use std::collections::BTreeMap;
use std::error::Error;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// How often the list of revoked certificates is asked for.
const REVOKED_EVERY: Duration = Duration::from_hours(1);
/// How long one small request may take.
const REQUEST_MAX: Duration = Duration::from_secs(30);
/// A session that is shorter than this was none.
const SHORT: Duration = Duration::from_secs(1);
/// A session that failed sooner than this was of no use: another server is asked next.
const USELESS: Duration = Duration::from_secs(10);

/// Everything that keeping in touch needs.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) config: Arc<Config>,
    pub(crate) identity: watch::Receiver<Arc<Identity>>,
    pub(crate) hub: Arc<Hub>,
    pub(crate) state: Arc<StateFile>,
    pub(crate) revoked: Revoked,
    /// What administrators revoked for good: when that changes, no connection of before is kept.
    pub(crate) for_good: Arc<Revocations>,
    pub(crate) standing: Arc<StandingBook>,
    pub(crate) dialer: Dialer,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) random: Arc<Random>,
    pub(crate) stop: CancellationToken,
    pub(crate) introducer: Introducer,
    /// Set when a server showed that it cannot read deflated polls.
    pub(crate) plain_polls: AtomicBool,
}

/// Why a contact failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ContactError {
    /// No server could be reached.
    #[error(transparent)]
    Dial(DialError),
    /// The connection broke.
    #[error("the connection to {server} broke while {what}")]
    Broken {
        /// To whom.
        server: String,
        /// During what.
        what: &'static str,
        /// Why.
        #[source]
        source: Box<dyn Error + Send + Sync>,
    },
    /// The server refused.
    #[error("{server} answered {status}: {text}")]
    Refused {
        /// Who.
        server: String,
        /// How.
        status: http::StatusCode,
        /// In its own words, cut.
        text: String,
    },
    /// The server ended the stream before it answered.
    #[error("{server} ended the stream before its first answer, as Fleetspeak does when it refuses a machine")]
    Silent {
        /// Who.
        server: String,
    },
    /// The server said something that is no message.
    #[error("{server} sent something that cannot be read: {reason}")]
    Unreadable {
        /// Who.
        server: String,
        /// Why not.
        reason: String,
    },
    /// The server took too long.
    #[error("{server} did not answer within {} s", .after.as_secs())]
    Slow {
        /// Who.
        server: String,
        /// How long it was given.
        after: Duration,
    },
}

impl ContactError {
    /// Which server was reached, and was of no use. `None`: none could be reached.
    fn server(&self) -> Option<&str> {
        match self {
            Self::Dial(_) => None,
            Self::Broken { server, .. }
            | Self::Refused { server, .. }
            | Self::Silent { server }
            | Self::Unreadable { server, .. }
            | Self::Slow { server, .. } => Some(server),
        }
    }

    /// Whether a server decided that it does not want this machine, or not now, and did not just fail.
    fn is_decision(&self) -> bool {
        matches!(self, Self::Refused { status, .. } if status.is_client_error())
    }

    pub(super) fn broken(server: &str, what: &'static str, source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::Broken { server: server.to_owned(), what, source: source.into() }
    }
}

/// How a session ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ended {
    /// In order; the next one begins at once.
    InOrder,
    /// The agent is stopping.
    Stopping,
}

impl Link {
    /// Keeps in touch until the agent stops.
    pub(crate) async fn run(&self) {
        let mut failures = 0;
        // Servers that were of no use since the last pause.
        let mut useless = 0;
        let mut revoked_due = Instant::now();
        let mut revocations = self.for_good.changes();
        while !self.stop.is_cancelled() {
            let mut contacts = 0;
            let began = Instant::now();
            let outcome = tokio::select! {
                outcome = self.session(&mut revoked_due, &mut contacts) => outcome,
                // What was on its way goes back to the spool, as when a connection breaks.
                _ = revocations.changed() => {
                    tracing::warn!("administrators revoked certificates: the connection is made again");
                    continue;
                }
            };
            if contacts > 0 {
                (failures, useless) = (0, 0);
            }
            match outcome {
                // A server that ends each stream at once is not asked again at once.
                Ok(Ended::InOrder) if began.elapsed() < SHORT => self.wait(self.pause(0)).await,
                Ok(Ended::InOrder) => {}
                Ok(Ended::Stopping) => break,
                Err(error) => {
                    self.standing_bad(&error);
                    if contacts == 0 || began.elapsed() < USELESS {
                        useless += 1;
                        error.server().inspect(|server| self.dialer.put_last(server));
                    }
                    if error.server().is_some() && !error.is_decision() && (1..self.dialer.servers()).contains(&useless)
                    {
                        tracing::warn!(error = %Chain(&error), "contact failed, trying the next server");
                        continue;
                    }
                    useless = 0;
                    let wait = self.pause(failures);
                    failures = failures.saturating_add(1);
                    let shown = format!("{:.1}", wait.as_secs_f64());
                    tracing::warn!(failures, error = %Chain(&error), "contact failed, trying again in {shown} s");
                    self.wait(wait).await;
                }
            }
        }
    }

    async fn session(&self, revoked_due: &mut Instant, contacts: &mut u32) -> Result<Ended, ContactError> {
        match self.config.mode {
            Mode::Stream => stream::session(self, revoked_due, contacts).await,
            Mode::Poll => poll::session(self, revoked_due, contacts).await,
        }
    }

    /// Keeps why a contact failed, for whoever looks at this machine.
    fn standing_bad(&self, error: &ContactError) {
        if matches!(error, ContactError::Refused { status: http::StatusCode::FORBIDDEN, .. }) {
            self.introducer.is_refused();
        }
        let server = error.server().unwrap_or_default();
        match error {
            ContactError::Refused { status, text, .. } if status.is_client_error() => {
                self.standing.bad(Outcome::Refused, server, &format!("{status}: {text}"));
            }
            _ => self.standing.bad(Outcome::Failed, server, &Chain(error).to_string()),
        }
    }

    fn pause(&self, failures: u32) -> Duration {
        let (first, most) = (self.config.failure_delay_min.0, self.config.failure_delay_max.0);
        retry::backoff(first, most, failures, self.random.unit())
    }

    async fn wait(&self, time: Duration) {
        let mut identity = self.identity.clone();
        identity.mark_unchanged();
        tokio::select! {
            () = tokio::time::sleep(time) => {}
            () = self.stop.cancelled() => {}
            // A new key may be welcome where the old one was not.
            _ = identity.changed() => {}
        }
    }

    /// The labels that this machine claims.
    pub(crate) fn labels(&self) -> Vec<String> {
        let mut labels = claimed_labels(&self.config.labels);
        if !self.config.enrol_token.0.is_empty() {
            labels.push(format!("{}{}", system::ENROL_TOKEN_PREFIX, self.config.enrol_token.0));
        }
        labels
    }

    /// Puts a contact together around messages that are encoded already.
    fn contact(&self, messages: &[crate::spool::Outgoing], tokens: BTreeMap<String, u64>) -> wire::WrappedContactData {
        let contact = wire::ContactData {
            sequencing_nonce: self.state.nonce(),
            messages: messages.iter().filter_map(|message| decode_own(&message.body)).collect(),
            client_clock: Some(convert::time_to_wire(self.clock.now())),
            allowed_messages: tokens,
            // The hub and the ledger know what they were given: it may be given again as soon as it may be lost.
            remembers: true,
            ..wire::ContactData::default()
        };
        wire::WrappedContactData {
            contact_data: contact.encode_to_vec().into(),
            client_labels: self.labels(),
            muster_introduction: self.introducer.words(),
            ..wire::WrappedContactData::default()
        }
    }

    /// Asks for the list of revoked certificates when it is time. A server without one is no failure, and a list that
    /// cannot be used changes nothing. Returns whether another connection must be taken: the list may name this very
    /// server, or was not read to its end.
    async fn fetch_revoked(&self, connection: &mut Connection, due: &mut Instant) -> Result<bool, ContactError> {
        if Instant::now() < *due {
            return Ok(false);
        }
        let server = connection.server().to_owned();
        let request = connection.request(http::Method::GET, "/files/system/RevokedCertificates", Body::empty());
        let slow = || ContactError::Slow { server: server.clone(), after: REQUEST_MAX };
        let broken = |error: hyper::Error| ContactError::broken(&server, "asking for revoked certificates", error);
        let answer = tokio::time::timeout(REQUEST_MAX, async {
            let response = connection.send(request).await.map_err(broken)?;
            let status = response.status();
            self.standing.head(response.headers());
            let body = Limited::new(response.into_body(), LIST_BYTES_MAX).collect().await;
            Ok::<_, ContactError>((status, body.map(http_body_util::Collected::to_bytes)))
        });
        let (status, body) = answer.await.map_err(|_| slow())??;
        *due = Instant::now() + REVOKED_EVERY;
        let list = match (status, &body) {
            (http::StatusCode::NOT_FOUND, _) => Ok(RevokedList::default()),
            (status, _) if !status.is_success() => Err(format!("it was answered with {status}")),
            (_, Err(error)) if error.is::<http_body_util::LengthLimitError>() => Err(ListError::TooLarge.to_string()),
            (_, Err(error)) => Err(format!("the connection broke: {error}")),
            (_, Ok(body)) => RevokedList::parse(body, self.clock.now()).map_err(|error| error.to_string()),
        };
        let renew = body.is_err();
        match list {
            Ok(list) => {
                self.standing.list(None);
                Ok(self.take_list(list) || renew)
            }
            Err(why) => {
                tracing::warn!(server, "the server's list of revoked certificates is ignored: {why}");
                self.standing.list(Some(why));
                Ok(renew)
            }
        }
    }

    /// Puts a list in the place of the one before. Returns whether it names other certificates.
    fn take_list(&self, list: RevokedList) -> bool {
        let mut counts = self.revoked.write().unwrap_or_else(PoisonError::into_inner);
        let is_other = !counts.names_same(&list);
        if is_other {
            let count = list.len();
            tracing::warn!(count, "the server names {count} revoked certificates; they are not trusted for a day");
        }
        // Also when it is the same, whose time begins anew.
        if (is_other || list.len() > 0)
            && let Err(error) = list.save(&self.config.state_dir)
        {
            tracing::error!(%error, "cannot write the list of revoked certificates");
        }
        *counts = list;
        is_other
    }

    /// Takes what a contact of the machine `me` with `server` brought.
    fn take_in(&self, me: AgentId, server: &str, contact: wire::ContactData) {
        if !contact.messages.is_empty() {
            self.standing.heard(server);
        }
        let wanted = contact.messages.into_iter().take(2 * limits::CONTACT_MESSAGES_MAX);
        wanted.for_each(|message| self.hub.receive_for(me, message));
    }

    fn deflates_polls(&self) -> bool {
        self.config.compression == Compression::Deflate && !self.plain_polls.load(Ordering::Relaxed)
    }
}

/// The labels every machine claims, with the configured ones: architecture in Go's words, system, then those.
pub(crate) fn claimed_labels(configured: &[String]) -> Vec<String> {
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "x86" => "386",
        other => other,
    };
    [architecture.to_owned(), std::env::consts::OS.to_owned()].into_iter().chain(configured.iter().cloned()).collect()
}

fn decode_own(body: &[u8]) -> Option<wire::Message> {
    wire::Message::decode(body)
        .inspect_err(|error| tracing::error!(%error, "a message of the spool is none; it is left out"))
        .ok()
}
