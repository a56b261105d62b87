//! Socket services: a process of this machine connects to a Unix socket when it likes, one at a time.
//!
//! Stays true: only this user can connect; a message waits until somebody is there to take it; what the process uses is
//! told to the server.

use super::Context;
use super::channel::ChannelError;
use super::link::{self, Peer, Watch};
use crate::hub::Delivery;
use crate::usage::{self, Report, Subject};
use muster_core::Timestamp;
use muster_proto::wire::socketservice::Config;
use std::io;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, watch};

/// Longest path a socket can have, with what is added while it is made.
const PATH_BYTES_MAX: usize = 107;
/// How long to wait after the socket could not be made or used.
const RETRY: Duration = Duration::from_mins(1);

/// Runs the service until it is stopped.
pub(super) async fn run(config: Config, mut inbox: mpsc::Receiver<Delivery>, context: Context) {
    let path = PathBuf::from(&config.api_proxy_path);
    let mut pending = None;
    loop {
        let outcome = tokio::select! {
            outcome = serve(&config, &mut inbox, &mut pending, &context) => outcome,
            () = context.stop.cancelled() => break,
        };
        if let Err(error) = outcome {
            tracing::error!(service = context.name, path = %path.display(), %error, "cannot use the socket");
        }
        tokio::select! {
            () = tokio::time::sleep(RETRY) => {}
            () = context.stop.cancelled() => break,
        }
    }
    // Whoever connects now shall see that nobody is there.
    let _ = std::fs::remove_file(&path);
}

async fn serve(
    config: &Config,
    inbox: &mut mpsc::Receiver<Delivery>,
    pending: &mut Option<Delivery>,
    context: &Context,
) -> io::Result<()> {
    let listener = bind(Path::new(&config.api_proxy_path))?;
    loop {
        let (stream, _) = listener.accept().await?;
        if !is_allowed(&stream)? {
            tracing::warn!(service = context.name, "a process of another user was refused at the socket");
            continue;
        }
        // The kernel says who connected; what the process says of itself it could say of any other.
        let pid = stream.peer_cred()?.pid().filter(|pid| *pid > 0);
        tracing::info!(service = context.name, pid, "a process connected to the socket");
        let process = pid.filter(|_| !config.disable_resource_monitoring).map(|pid| (pid, usage::started(pid)));
        let (from, to) = stream.into_split();
        let (peer, seen) = watch::channel(Peer::default());
        let (accepted, acks) = mpsc::channel(100);
        let error = tokio::select! {
            error = link::feed(to, inbox, pending, acks) => error,
            error = link::listen(from, context, &peer, accepted) => error,
            error = report_usage(context, &seen, process) => error,
        };
        tracing::info!(service = context.name, reason = %error, "the process at the socket is gone");
        if let Some((pid, started)) = process {
            let subject = Subject { scope: context.name.clone(), pid, version: seen.borrow().version.clone() };
            usage::report(&context.hub, &context.clock, &subject, started, Report::Ended).await;
        }
    }
}

/// Tells the server what the process uses, for as long as it is there.
async fn report_usage(
    context: &Context,
    peer: &watch::Receiver<Peer>,
    process: Option<(i32, Option<Timestamp>)>,
) -> ChannelError {
    if let Some((pid, started)) = process {
        let every = Watch { samples: usage::SAMPLES, period: usage::PERIOD, memory_max: None };
        link::watch_usage(context, peer, pid, started, &every).await;
    }
    std::future::pending().await
}

/// Makes the socket under another name, closes it to others, and only then gives it its own name.
fn bind(path: &Path) -> io::Result<UnixListener> {
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".tmp");
    if temporary.len() > PATH_BYTES_MAX {
        return Err(io::Error::other(format!("the path is longer than {} bytes", PATH_BYTES_MAX - 4)));
    }
    let temporary = PathBuf::from(temporary);
    for name in [path, &temporary] {
        match std::fs::symlink_metadata(name) {
            Ok(found) if found.file_type().is_socket() => std::fs::remove_file(name)?,
            Ok(_) => return Err(io::Error::other(format!("{} is there and is no socket", name.display()))),
            Err(_) => {}
        }
    }
    let listener = UnixListener::bind(&temporary)?;
    std::fs::set_permissions(&temporary, std::fs::Permissions::from_mode(0o600))?;
    std::fs::rename(&temporary, path)?;
    Ok(listener)
}

/// Whether the process at the other end runs as this user, or as root.
fn is_allowed(stream: &UnixStream) -> io::Result<bool> {
    let uid = stream.peer_cred()?.uid();
    Ok(uid == 0 || uid == rustix::process::getuid().as_raw())
}
