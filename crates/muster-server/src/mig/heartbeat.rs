//! What anybody may ask: whether the API is there, and from which address they come. And heartbeats of MIG's own agents.
//!
//! Stays true: such a heartbeat is read and checked, and nothing of it is kept: nobody signs it, so it proves no
//! machine, and whoever could send one could fill the inventory.

use super::access::Here;
use super::envelope::{Answer, Item};
use crate::rest::Rest;
use crate::rest::input;
use crate::rest::layers::Peer;
use axum::Extension;
use axum::Json;
use axum::body::Body;
use axum::extract::State;
use http::StatusCode;
use muster_core::action::moment;
use muster_core::{Timestamp, limits};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Says that the API is there.
pub(super) async fn greet(Extension(here): Extension<Here>) -> Answer {
    Answer::of(vec![Item::at(here.href).with("heartbeat", &"Muster is here")])
}

/// Says from which address the request came, as bare text.
pub(super) async fn address(Extension(Peer(peer)): Extension<Peer>) -> String {
    peer.ip().to_canonical().to_string()
}

/// How old the start of an agent may be that says that it lives (MIG: 5 min).
const START_AGE_MAX: Duration = Duration::from_mins(5);
const NAME_BYTES_MAX: usize = 1024;
const VERSION_BYTES_MAX: usize = 128;

/// What comes of a heartbeat.
#[derive(Debug, Serialize)]
pub(super) struct Taken {
    error: Option<String>,
}

/// A heartbeat in the words of MIG's last agents.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Heartbeat {
    name: String,
    mode: String,
    version: String,
    pid: i64,
    queue_loc: String,
    start_time: String,
    environment: Environment,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Environment {
    init: String,
    ident: String,
    os: String,
    arch: String,
    #[serde(rename = "publicIP")]
    public_ip: String,
}

/// Reads the heartbeat of one of MIG's agents.
pub(super) async fn take(State(rest): State<Rest>, body: Body) -> (StatusCode, Json<Taken>) {
    let read = input::read(body, limits::MIG_HEARTBEAT_BYTES_MAX).await.map_err(|failure| failure.detail);
    match read.and_then(|bytes| check(&bytes, rest.clock.now())) {
        Ok(()) => (StatusCode::OK, Json(Taken { error: None })),
        Err(error) => (StatusCode::BAD_REQUEST, Json(Taken { error: Some(error) })),
    }
}

fn check(bytes: &[u8], now: Timestamp) -> Result<(), String> {
    let beat: Heartbeat = serde_json::from_slice(bytes).map_err(|error| format!("it is no heartbeat: {error}"))?;
    let Environment { init, ident, os, arch, public_ip } = &beat.environment;
    let needed = [
        ("name", &beat.name),
        ("mode", &beat.mode),
        ("version", &beat.version),
        ("queueLoc", &beat.queue_loc),
        ("environment.init", init),
        ("environment.ident", ident),
        ("environment.os", os),
        ("environment.arch", arch),
        ("environment.publicIP", public_ip),
    ];
    if let Some((missing, _)) = needed.iter().find(|(_, value)| value.is_empty()) {
        return Err(format!("{missing} is missing"));
    }
    if beat.pid <= 0 {
        return Err("pid is missing".to_owned());
    }
    if !matches!(beat.mode.as_str(), "daemon" | "checkin") {
        return Err("mode must be daemon or checkin".to_owned());
    }
    if beat.name.len() > NAME_BYTES_MAX || beat.version.len() > VERSION_BYTES_MAX {
        return Err("name or version is too long".to_owned());
    }
    let started = moment(&beat.start_time).ok_or("startTime must be written like 2026-01-02T03:04:05Z")?;
    if now.since(started) > START_AGE_MAX {
        return Err("startTime is too long ago".to_owned());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn beat() -> Value {
        json!({ "name": "vm", "mode": "daemon", "version": "1", "pid": 7, "queueLoc": "linux.x",
            "startTime": "2026-01-02T03:04:05.5Z", "refreshTime": "2026-01-02T03:04:05Z", "tags": [{ "name": "a", "value": "b" }],
            "environment": { "init": "systemd", "ident": "Debian", "os": "linux", "arch": "amd64", "isProxied": false,
                "addresses": ["192.0.2.2/24"], "publicIP": "127.0.0.1", "modules": ["file"] } })
    }

    #[test]
    fn a_heartbeat_is_whole_and_fresh_or_refused() {
        let now = "2026-01-02T03:05:00Z".parse().unwrap();
        let checked = |beat: &Value| check(beat.to_string().as_bytes(), now);
        assert_eq!(checked(&beat()), Ok(()));
        for key in ["name", "mode", "version", "queueLoc", "pid", "startTime", "environment"] {
            let mut without = beat();
            without.as_object_mut().unwrap().remove(key);
            assert!(checked(&without).is_err(), "{key}");
        }
        for (key, value) in [
            ("mode", json!("other")),
            ("name", json!("x".repeat(1025))),
            ("version", json!("x".repeat(129))),
            ("pid", json!("7")),
            ("startTime", json!("2026-01-02T02:59:59Z")),
            ("startTime", json!("yesterday")),
        ] {
            let mut wrong = beat();
            wrong[key] = value;
            assert!(checked(&wrong).is_err(), "{key}");
        }
        for bytes in [&b""[..], b"[]", b"null x", b"\xff"] {
            assert!(check(bytes, now).is_err());
        }
    }
}
