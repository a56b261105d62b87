//! Looking at the servers: whether they can be reached, are trusted, and take this machine.
//!
//! Stays true: looking changes nothing. A contact would enrol a machine that is not known yet, take messages that are the
//! agent's, and stand in the server's chain of contacts; so a file is asked for that there is not, which the server refuses
//! to machines that it has not let in.

use super::{Check, certificate, failed, ok, warning};
use crate::actions::Believed;
use crate::actions::status::documents_path;
use crate::chain::Chain;
use crate::comms::{Body, Connection, Dialer};
use crate::config::Config;
use crate::keys::Identity;
use crate::pinned::PinnedVerifier;
use crate::revocations::{Revocations, RevokedForGood};
use crate::revoked::RevokedList;
use crate::standing::{Clocks, advice_about};
use http::{HeaderMap, Method, StatusCode};
use http_body_util::{BodyExt as _, Limited};
use muster_core::{Clock, Timestamp, text};
use rustls_pki_types::CertificateDer;
use std::sync::{Arc, RwLock};
use std::time::Duration;

/// A file that no server has.
const NO_FILE: &str = "/files/system/muster-agent-doctor";
/// How long a server may take to answer.
const ANSWER_MAX: Duration = Duration::from_secs(20);
/// Clocks that are further apart than this keep orders from running.
const CLOCKS_FAR: u64 = 300;

/// Looks at each server.
pub(super) async fn look(
    config: &Config,
    pins: Vec<CertificateDer<'static>>,
    identity: &Identity,
    clock: Arc<dyn Clock>,
) -> Vec<Check> {
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    let revoked = Arc::new(RwLock::new(RevokedList::load(&config.state_dir)));
    let believed = Believed::load(config, &documents_path(config));
    let verifier = match PinnedVerifier::new(pins, &provider, revoked) {
        Ok(verifier) => verifier.heeding(Revocations::new(believed.revocations)),
        Err(error) => return vec![failed("trusted", error.to_string(), "give the right certificate in trusted_certs")],
    };
    let dialer = Dialer::new(config, verifier, Arc::clone(&clock));
    let mut checks = Vec::new();
    for server in &config.servers {
        look_at(server, &dialer, identity, clock.now(), &mut checks).await;
    }
    checks
}

async fn look_at(server: &str, dialer: &Dialer, identity: &Identity, now: Timestamp, checks: &mut Vec<Check>) {
    let stream = match dialer.dial_tls(server, identity).await {
        Ok(stream) => stream,
        Err(error) => {
            let found = Chain(&error).to_string();
            let advice = dial_advice(&found);
            checks.push(failed("server", found, advice));
            return;
        }
    };
    let (_, session) = stream.get_ref();
    let version = session.protocol_version().and_then(|version| version.as_str()).unwrap_or("TLS").to_owned();
    let shown = session.peer_certificates().and_then(<[_]>::first);
    let shown = shown.map(|shown| certificate("certificate", shown, now));
    let connection = match dialer.speak(server, stream, identity).await {
        Ok(connection) => connection,
        Err(error) => {
            let advice = "is this the port for agents, and no proxy before it?";
            checks.push(failed("server", Chain(&error).to_string(), advice));
            checks.extend(shown);
            return;
        }
    };
    match ask(connection).await {
        Ok((status, headers, words)) => {
            checks.push(ok("server", format!("{server} answers with {version}")));
            checks.extend(shown);
            checks.push(taken(server, status, &words));
            checks.extend(Clocks::of(&headers, now).map(clocks));
        }
        Err(why) => {
            let advice = "is this the port for agents, and no proxy before it?";
            checks.push(failed("server", format!("{server} shook hands with {version} and then {why}"), advice));
            checks.extend(shown);
        }
    }
}

/// Asks for the file that there is not.
async fn ask(mut connection: Connection) -> Result<(StatusCode, HeaderMap, String), String> {
    let asked = async {
        let request = connection.request(Method::GET, NO_FILE, Body::empty());
        let response = connection.send(request).await.map_err(|error| format!("broke the connection: {error}"))?;
        let (head, body) = response.into_parts();
        let body =
            Limited::new(body, 4096).collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
        let words = text::plain(String::from_utf8_lossy(&body).trim()).replace('\n', " ");
        Ok((head.status, head.headers, text::cut(&words, 200)))
    };
    tokio::time::timeout(ANSWER_MAX, asked)
        .await
        .unwrap_or_else(|_| Err(format!("did not answer within {} s", ANSWER_MAX.as_secs())))
}

/// What the server's answer says of this machine.
fn taken(server: &str, status: StatusCode, words: &str) -> Check {
    const NAME: &str = "enrolment";
    match status {
        // There is no such file, and this machine may ask.
        StatusCode::NOT_FOUND => ok(NAME, format!("{server} takes this machine")),
        StatusCode::OK => ok(NAME, format!("{server} answers this machine")),
        StatusCode::UNAUTHORIZED => {
            let advice = "the agent enrols at its first contact; the line about contacts says why there was none";
            warning(NAME, format!("{server} does not know this machine yet"), advice)
        }
        StatusCode::FORBIDDEN if words.contains("waiting") => {
            warning(NAME, format!("{server} lets this machine wait for approval"), advice_about(words))
        }
        StatusCode::FORBIDDEN => failed(NAME, format!("{server} refuses this machine: {words}"), advice_about(words)),
        status => {
            let advice = "look at the server's own log, and `muster doctor` there";
            failed(NAME, format!("{server} answers {status}: {words}"), advice)
        }
    }
}

fn clocks(clocks: Clocks) -> Check {
    let advice = "set both by NTP: certificates and the windows of orders go by them";
    match clocks.0.unsigned_abs() {
        apart if apart > CLOCKS_FAR => failed("clock", clocks.says(), advice),
        _ if clocks.are_apart() => warning("clock", clocks.says(), advice),
        _ => ok("clock", clocks.says()),
    }
}

fn dial_advice(found: &str) -> &'static str {
    let has = |word: &str| found.contains(word);
    match () {
        () if has("NotValidYet") || has("not valid yet") => {
            "this machine's clock is behind, or the server made its certificate with a clock that was ahead: set both by NTP; \
             where both are right, the server needs a new certificate"
        }
        () if has("Expired") || has("expired") => {
            "this machine's clock is ahead: set it by NTP; where it is right, the server's certificate must be renewed"
        }
        () if has(&RevokedForGood.to_string()) => {
            "administrators revoked it for good: give the server another certificate, or trusted_certs another authority; \
             `muster-agent status` names what they revoked"
        }
        () if has("Revoked") || has("revoked") => {
            "a server named this certificate as revoked; that counts for a day at most (revoked.json in state_dir)"
        }
        () if has("not valid for name") || has("NotValidForName") => {
            "name the server as its certificate does, in `servers` or `server_name`"
        }
        () if has("UnknownIssuer") || has("BadSignature") => {
            "the server is another one, or has a new authority: compare trusted_certs with the server's ca.pem"
        }
        () if has("CaUsedAsEndEntity") => {
            "the server shows an authority's certificate as its own: give it one that the authority issued \
             (agents.certificate), or put that very certificate into trusted_certs"
        }
        () if has("InvalidPurpose")
            || has("not allowed for")
            || has("UnsupportedSignatureAlgorithm")
            || has("UnhandledCriticalExtension")
            || has("BadEncoding")
            || has("UnsupportedCertVersion") =>
        {
            "give the server another certificate (agents.certificate): of version 3, for servers (serverAuth), signed with \
             SHA-256 or better"
        }
        () if has("corrupt message") || has("InvalidMessage") => {
            "something answers there, but not in TLS: is this the port for agents?"
        }
        () if has("received fatal alert") => {
            "the server ended the handshake: look at its log, and at a proxy before it"
        }
        () if has("the proxy") => "look at `proxy`: address, login, and whether it may connect there",
        () => "is the address right, does the server run, and does a firewall let this machine out?",
    }
}
