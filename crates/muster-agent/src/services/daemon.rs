//! Daemon services: a process that is kept running and talks over two pipes, as the original's daemons do.
//!
//! Stays true: two starts have some time between them; a message that it did not take whole waits for its next life; when
//! it uses too much memory or stops saying that it lives, it is ended and the server is told.

use super::link::{self, Peer, Watch};
use super::{Context, environment, spawn};
use crate::hub::{Delivery, Mail, any};
use crate::usage::{self, Report, Subject};
use muster_core::{Priority, Timestamp, system};
use muster_proto::convert;
use muster_proto::wire::daemonservice::{Config, StdOutputData};
use muster_proto::wire::monitoring::{KillNotification, kill_notification::Reason};
use std::io;
use std::os::fd::AsFd;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::net::unix::pipe;
use tokio::process::{Child, Command};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

/// How long a daemon may take to end once its channel is closed.
const CLOSE_GRACE: Duration = Duration::from_secs(3);
/// Bytes of output gathered before they are sent, unless configured, and at most.
const FLUSH_BYTES_DEFAULT: usize = 4096;
/// Bytes of output in one message, at most.
const FLUSH_BYTES_MAX: usize = 1024 * 1024;
/// How long output is gathered, unless configured.
const FLUSH_TIME_DEFAULT: Duration = Duration::from_mins(1);

/// What the definition asks for, in units of this program.
#[derive(Debug, Clone)]
struct Settings {
    config: Config,
    idle_max: Option<Duration>,
    watch: Watch,
    heartbeat: Option<(Duration, Duration)>,
}

impl Settings {
    fn of(config: Config) -> Self {
        let span = |span: Option<&prost_types::Duration>| {
            span.and_then(|span| Duration::try_from(*span).ok()).filter(|span| !span.is_zero())
        };
        let seconds = |seconds: i32| u64::try_from(seconds).ok().filter(|s| *s > 0).map(Duration::from_secs);
        #[expect(deprecated, reason = "existing definitions still have the older fields")]
        let older = (
            seconds(config.resource_monitoring_sample_period_seconds),
            seconds(config.heartbeat_unresponsive_grace_period_seconds),
            seconds(config.heartbeat_unresponsive_kill_period_seconds),
        );
        let grace = span(config.heartbeat_unresponsive_grace_period.as_ref()).or(older.1);
        let kill = span(config.heartbeat_unresponsive_kill_period.as_ref()).or(older.2);
        let beats = (grace.unwrap_or(Duration::from_mins(10)), kill.unwrap_or(Duration::from_mins(2)));
        Self {
            idle_max: span(config.inactivity_timeout.as_ref()),
            watch: Watch {
                samples: u32::try_from(config.resource_monitoring_sample_size)
                    .ok()
                    .filter(|n| *n > 0)
                    .unwrap_or(usage::SAMPLES),
                period: span(config.resource_monitoring_sample_period.as_ref()).or(older.0).unwrap_or(usage::PERIOD),
                memory_max: u64::try_from(config.memory_limit).ok().filter(|bytes| *bytes > 0),
            },
            heartbeat: config.monitor_heartbeats.then_some(beats),
            config,
        }
    }
}

/// Why a daemon's life ended.
#[derive(Debug)]
enum End {
    Exited(io::Result<ExitStatus>),
    Channel(String),
    Killed(Reason),
    Idle,
    Stopped,
}

/// Runs the service until it is stopped.
pub(super) async fn run(config: Config, mut inbox: mpsc::Receiver<Delivery>, context: Context) {
    let settings = Settings::of(config);
    let mut pending = None;
    let mut waits_for_message = settings.config.lazy_start;
    loop {
        if waits_for_message && pending.is_none() {
            pending = tokio::select! {
                delivery = inbox.recv() => delivery,
                () = context.stop.cancelled() => return,
            };
        }
        let born = Instant::now();
        match start(&settings, &context) {
            Ok(life) => {
                let end = life.live(&settings, &context, &mut inbox, &mut pending).await;
                if matches!(end, End::Stopped) {
                    return;
                }
                waits_for_message = matches!(end, End::Idle);
            }
            Err(error) => tracing::error!(service = context.name, %error, "cannot start the daemon"),
        }
        tokio::select! {
            () = tokio::time::sleep_until(born + context.respawn_every) => {}
            () = context.stop.cancelled() => return,
        }
    }
}

/// One life of the process.
struct Life {
    child: Child,
    pid: i32,
    to: pipe::Sender,
    from: pipe::Receiver,
}

fn start(settings: &Settings, context: &Context) -> io::Result<Life> {
    let (child_reads, agent_writes) = spawn::pipe()?;
    let (agent_reads, child_writes) = spawn::pipe()?;
    let (program, arguments) = settings.config.argv.split_first().expect("a definition without argv is refused");
    let mut command = Command::new(program);
    environment::give(&mut command, &context.environment);
    command
        .args(arguments)
        .env("FLEETSPEAK_COMMS_CHANNEL_INFD", spawn::number_of(&child_reads))
        .env("FLEETSPEAK_COMMS_CHANNEL_OUTFD", spawn::number_of(&child_writes))
        .env("FLEETSPEAK_CLIENT_ID", context.identity.borrow().id.to_string())
        .stdin(Stdio::null());
    if settings.config.std_params.is_some() {
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
    } else {
        command.stdout(Stdio::null()).stderr(Stdio::null());
    }
    let child = spawn::spawn(&mut command, &[child_reads.as_fd(), child_writes.as_fd()])?;
    let pid = child.id().and_then(|pid| i32::try_from(pid).ok()).unwrap_or(0);
    tracing::info!(service = context.name, pid, "daemon started");
    let (to, from) = (pipe::Sender::from_owned_fd(agent_writes)?, pipe::Receiver::from_owned_fd(agent_reads)?);
    Ok(Life { child, pid, to, from })
}

impl Life {
    async fn live(
        mut self,
        settings: &Settings,
        context: &Context,
        inbox: &mut mpsc::Receiver<Delivery>,
        pending: &mut Option<Delivery>,
    ) -> End {
        let (peer, peer_seen) = watch::channel(Peer::default());
        let (accepted, acks) = mpsc::channel(100);
        let output = forward_output(&mut self.child, settings, context, self.pid);
        let started = usage::started(self.pid);
        let born = Instant::now();
        // A message handed over counts as activity, as one that came does.
        let handed = watch::Sender::new(born);
        let mut counted = CountedInbox { inbox, handed: &handed };
        let end = tokio::select! {
            status = self.child.wait() => End::Exited(status),
            error = counted.feed(self.to, pending, acks) => End::Channel(error),
            error = link::listen(self.from, context, &peer, accepted) => End::Channel(error.to_string()),
            reason = watch_beats(settings, &peer_seen, born) => End::Killed(reason),
            reason = watch_usage(settings, context, &peer_seen, self.pid, started) => End::Killed(reason),
            () = watch_idleness(settings, &peer_seen, handed.subscribe(), born) => End::Idle,
            () = context.stop.cancelled() => End::Stopped,
        };
        self.child = bury(self.child, &end, context).await;
        drop(output);
        let version = peer_seen.borrow().version.clone();
        let subject = Subject { scope: context.name.clone(), pid: self.pid, version };
        if let End::Killed(reason) = end {
            notify_killed(context, &subject, started, reason).await;
        }
        if !settings.config.disable_resource_monitoring {
            usage::report(&context.hub, &context.clock, &subject, started, Report::Ended).await;
        }
        end
    }
}

/// The inbox, with a note of when something was last taken from it.
struct CountedInbox<'a> {
    inbox: &'a mut mpsc::Receiver<Delivery>,
    handed: &'a watch::Sender<Instant>,
}

impl CountedInbox<'_> {
    async fn feed(
        &mut self,
        to: pipe::Sender,
        pending: &mut Option<Delivery>,
        acks: mpsc::Receiver<bytes::Bytes>,
    ) -> String {
        let handed = self.handed;
        let writer = Noted { inner: to, handed };
        link::feed(writer, self.inbox, pending, acks).await.to_string()
    }
}

/// A writer that notes when something is written.
struct Noted<'a> {
    inner: pipe::Sender,
    handed: &'a watch::Sender<Instant>,
}

impl tokio::io::AsyncWrite for Noted<'_> {
    fn poll_write(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
        bytes: &[u8],
    ) -> std::task::Poll<io::Result<usize>> {
        self.handed.send_replace(Instant::now());
        std::pin::Pin::new(&mut self.inner).poll_write(context, bytes)
    }

    fn poll_flush(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<io::Result<()>> {
        std::pin::Pin::new(&mut self.inner).poll_flush(context)
    }

    fn poll_shutdown(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<io::Result<()>> {
        std::pin::Pin::new(&mut self.inner).poll_shutdown(context)
    }
}

/// Makes sure that the process is gone, with all it started.
async fn bury(mut child: Child, end: &End, context: &Context) -> Child {
    let service = context.name.as_str();
    let pid = child.id();
    match end {
        End::Exited(Ok(status)) => tracing::warn!(service, %status, "the daemon ended"),
        End::Exited(Err(error)) => tracing::error!(service, %error, "cannot wait for the daemon"),
        End::Channel(reason) => tracing::warn!(service, reason, "the daemon's channel ended"),
        End::Killed(reason) => tracing::error!(service, reason = reason.as_str_name(), "the daemon is ended"),
        End::Idle => tracing::info!(service, "the daemon has nothing to do and is ended"),
        End::Stopped => {}
    }
    match end {
        End::Exited(_) => {}
        End::Killed(_) => {
            if let Some(pid) = pid {
                spawn::kill_group(pid);
            }
            let _ = child.wait().await;
        }
        _ => {
            // The pipes are closed by now, which tells a daemon to end by itself.
            if tokio::time::timeout(CLOSE_GRACE, child.wait()).await.is_err() {
                spawn::end(&mut child).await;
            }
        }
    }
    child
}

/// Returns when a daemon that should say that it lives has not for too long.
async fn watch_beats(settings: &Settings, peer: &watch::Receiver<Peer>, born: Instant) -> Reason {
    let Some((grace, kill)) = settings.heartbeat else { return std::future::pending().await };
    loop {
        let heard = peer.borrow().heard;
        let due = heard.map_or(born + grace, |heard| heard + kill).max(born + grace);
        if Instant::now() >= due {
            return Reason::HeartbeatFailure;
        }
        tokio::time::sleep_until(due).await;
    }
}

/// Returns when the process uses too much memory.
async fn watch_usage(
    settings: &Settings,
    context: &Context,
    peer: &watch::Receiver<Peer>,
    pid: i32,
    started: Option<Timestamp>,
) -> Reason {
    if settings.config.disable_resource_monitoring {
        return std::future::pending().await;
    }
    link::watch_usage(context, peer, pid, started, &settings.watch).await;
    Reason::MemoryExceeded
}

/// Returns when nothing went in or out for the time that is configured.
async fn watch_idleness(
    settings: &Settings,
    peer: &watch::Receiver<Peer>,
    handed: watch::Receiver<Instant>,
    born: Instant,
) {
    let Some(idle_max) = settings.idle_max else { return std::future::pending().await };
    loop {
        let last = peer.borrow().heard.unwrap_or(born).max(*handed.borrow());
        let due = last + idle_max;
        if Instant::now() >= due {
            return;
        }
        tokio::time::sleep_until(due).await;
    }
}

async fn notify_killed(context: &Context, subject: &Subject, started: Option<Timestamp>, reason: Reason) {
    let data = KillNotification {
        service: subject.scope.clone(),
        pid: subject.pid.into(),
        version: subject.version.clone(),
        process_start_time: Some(convert::time_to_wire(started.unwrap_or(context.clock.now()))),
        killed_when: Some(convert::time_to_wire(context.clock.now())),
        reason: reason.into(),
    };
    let mail = Mail {
        from: system::SERVICE.into(),
        to: system::SERVICE.into(),
        message_type: system::KILL_NOTIFICATION.into(),
        data: Some(any("fleetspeak.monitoring.KillNotification", &data)),
        priority: Priority::Low,
        background: true,
        ..Mail::default()
    };
    context.hub.send_or_count(mail).await;
}

/// A task that ends when this is dropped.
struct Task(tokio::task::JoinHandle<()>);

impl Drop for Task {
    fn drop(&mut self) {
        // What was gathered is sent when the pipes are at their end, which they are once the process is gone. A pipe
        // that somebody else holds open is not waited for.
        let handle = std::mem::replace(&mut self.0, tokio::spawn(async {}));
        tokio::spawn(async move {
            let abort = handle.abort_handle();
            if tokio::time::timeout(Duration::from_secs(5), handle).await.is_err() {
                abort.abort();
            }
        });
    }
}

fn forward_output(child: &mut Child, settings: &Settings, context: &Context, pid: i32) -> Option<Task> {
    let params = settings.config.std_params.as_ref()?;
    let (out, err) = (child.stdout.take()?, child.stderr.take()?);
    let flush_bytes = usize::try_from(params.flush_bytes).ok().filter(|bytes| *bytes > 0);
    let flush_time = u64::try_from(params.flush_time_seconds).ok().filter(|seconds| *seconds > 0);
    let forwarder = Forwarder {
        context: context.clone(),
        to: params.service_name.clone(),
        pid: pid.into(),
        flush_bytes: flush_bytes.unwrap_or(FLUSH_BYTES_DEFAULT).min(FLUSH_BYTES_MAX),
        flush_time: flush_time.map_or(FLUSH_TIME_DEFAULT, Duration::from_secs),
        index: 0,
    };
    Some(Task(tokio::spawn(forwarder.run(out, err))))
}

/// Sends what a daemon writes to its outputs.
struct Forwarder {
    context: Context,
    to: String,
    pid: i64,
    flush_bytes: usize,
    flush_time: Duration,
    index: i64,
}

impl Forwarder {
    async fn run(mut self, mut out: impl AsyncRead + Unpin, mut err: impl AsyncRead + Unpin) {
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        let (mut out_open, mut err_open) = (true, true);
        let mut flush_at = None;
        while out_open || err_open {
            let room = self.flush_bytes.saturating_sub(stdout.len() + stderr.len()).max(1);
            let due = flush_at.unwrap_or_else(|| Instant::now() + self.flush_time);
            tokio::select! {
                read = read_some(&mut out, &mut stdout, room), if out_open => out_open = read,
                read = read_some(&mut err, &mut stderr, room), if err_open => err_open = read,
                () = tokio::time::sleep_until(due), if flush_at.is_some() => {
                    self.flush(&mut stdout, &mut stderr).await;
                }
            }
            if stdout.len() + stderr.len() >= self.flush_bytes {
                self.flush(&mut stdout, &mut stderr).await;
            }
            let holds = !stdout.is_empty() || !stderr.is_empty();
            flush_at = holds.then_some(due);
        }
        self.flush(&mut stdout, &mut stderr).await;
    }

    async fn flush(&mut self, stdout: &mut Vec<u8>, stderr: &mut Vec<u8>) {
        if stdout.is_empty() && stderr.is_empty() {
            return;
        }
        let data = StdOutputData {
            pid: self.pid,
            message_index: self.index,
            stdout: std::mem::take(stdout).into(),
            stderr: std::mem::take(stderr).into(),
        };
        self.index += 1;
        let mail = Mail {
            from: self.context.name.clone(),
            to: self.to.clone(),
            message_type: "StdOutput".into(),
            data: Some(any("fleetspeak.daemonservice.StdOutputData", &data)),
            priority: Priority::Low,
            background: true,
            ..Mail::default()
        };
        self.context.hub.send_or_count(mail).await;
    }
}

/// Reads up to `room` bytes more. Returns whether there may be further ones.
async fn read_some(from: &mut (impl AsyncRead + Unpin), into: &mut Vec<u8>, room: usize) -> bool {
    let mut piece = vec![0; room.min(8192)];
    match from.read(&mut piece).await {
        Ok(0) | Err(_) => false,
        Ok(count) => {
            into.extend_from_slice(&piece[..count]);
            true
        }
    }
}
