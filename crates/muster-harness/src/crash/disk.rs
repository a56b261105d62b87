//! The disk under a server is full, or fails.

use super::rig::{self, Rig};
use super::{Backend, Load, Score};
use anyhow::{Context, Result, bail, ensure};
use muster_harness::identity::Identity;
use muster_harness::link::Link;
use muster_harness::server::Server;
use muster_harness::wait;
use muster_harness::wire::{self, ContactData};
use rand::RngExt as _;
use serde_json::json;
use std::fs::File;
use std::io::Write;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

/// Big enough for a short load and the log of the database, small enough to be filled at once.
const DISK_MIB: u32 = 96;
const CEILING: Duration = Duration::from_secs(30);
/// How soon a server works again once there is room. Goal: 5 s.
const BACK_CEILING: Duration = Duration::from_secs(10);

/// A small disk in memory, gone with its guard.
struct SmallDisk {
    path: PathBuf,
}

impl SmallDisk {
    fn mount() -> Result<Self> {
        let path = tempfile::Builder::new().prefix("muster-small-disk-").tempdir()?.keep();
        let size = format!("size={DISK_MIB}m");
        let status = Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(&path).status();
        let status = status.context("starting mount")?;
        ensure!(status.success(), "a small disk cannot be mounted ({status}): this run needs root");
        Ok(Self { path })
    }

    /// Takes every byte that is left.
    fn fill(&self) -> Result<PathBuf> {
        let path = self.path.join("filler");
        let mut file = File::create(&path)?;
        let block = vec![0; 64 * 1024];
        loop {
            match file.write(&block) {
                Ok(_) => {}
                Err(error) if error.kind() == std::io::ErrorKind::StorageFull => return Ok(path),
                Err(error) => return Err(error).context("filling the disk"),
            }
        }
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: what still holds it open keeps it until it ends.
        drop(Command::new("umount").arg("-l").arg(&self.path).status());
        drop(std::fs::remove_dir(&self.path));
    }
}

/// The disk fills up under load, on both databases: the server stays up, refuses with 503, says that it is not ready and
/// why, and recovers.
pub(super) async fn full(load: Load) -> Result<Score> {
    let mut score = Score::default();
    let runs = (1..=load.cycles).flat_map(|cycle| [Backend::Sqlite, Backend::Postgres].map(|backend| (cycle, backend)));
    for (cycle, backend) in runs {
        let disk = SmallDisk::mount()?;
        let mut rig = Rig::start(backend, load, Some(disk.path.join("server")), &[]).await?;
        rig.any_moment().await;
        let outcome = fill_and_free(&mut rig, &disk).await;
        let checked = rig.check().await;
        let error = outcome.as_ref().err().or(checked.as_ref().err()).map(|error| format!("{error:#}"));
        let figures = json!({ "backend": format!("{backend:?}"), "error": error });
        rig::report("disk-full", cycle, &figures, checked.as_ref().ok());
        score.cycle(outcome.is_ok(), Some(checked.is_ok_and(|findings| findings.sound())));
        rig.close().await?;
    }
    Ok(score)
}

async fn fill_and_free(rig: &mut Rig, disk: &SmallDisk) -> Result<()> {
    let filler = disk.fill()?;
    let probe = Identity::fresh()?;
    wait::until_true("a contact to be answered 503", CEILING, async || {
        let status = poll(&rig.servers[0], &probe).await?;
        if status == 503 { Ok(true) } else { bail!("it was answered {status}") }
    })
    .await?;
    let (status, _) = rig.servers[0].rest.outside("/healthz").await?;
    ensure!(status.is_success(), "/healthz was answered {status} while the disk was full");
    for server in &rig.servers {
        wait::until_true("/readyz to say that the disk is full", CEILING, async || {
            let (status, text) = server.rest.outside("/readyz").await?;
            ensure!(status == 503 && text.contains("disk of the database is full"), "it says {status} {text}");
            Ok(true)
        })
        .await?;
    }
    let log = rig.servers[0].process.log();
    ensure!(log.contains("contacts are refused"), "the log does not say why: {}", rig.servers[0].process.log_tail());
    rig.servers[0].rest.agents().await.context("reading while the disk was full")?;
    rig.servers[0].rest.server().await.context("asking how the server stands while the disk was full")?;
    std::fs::remove_file(filler)?;
    rig.acknowledges_again(BACK_CEILING).await?;
    for server in &rig.servers {
        wait::until_true("/readyz to say that there is room", CEILING, async || {
            Ok(server.rest.outside("/readyz").await?.0.is_success())
        })
        .await?;
    }
    let ended = rig.servers[0].process.ended()?;
    ensure!(ended.is_none(), "the server ended ({ended:?}): {}", rig.servers[0].process.log_tail());
    Ok(())
}

async fn poll(server: &Server, identity: &Identity) -> Result<u16> {
    let mut link = Link::open(server.addresses.agents, &identity.tls).await?;
    Ok(link.post("", &wire::wrap(&ContactData::default(), &[])).await?.status)
}

/// Syncs that an agent costs on its way in, at most: its key is enrolled, its contact kept, what that brings processed.
const SYNCS_OF_AN_AGENT: usize = 4;

/// A sync to the disk fails: the server acknowledges nothing more and ends; started again, it has everything.
pub(super) async fn failing_sync(load: Load) -> Result<Score> {
    let mut score = Score::default();
    let mut random = muster_random(load.seed);
    for cycle in 1..=load.cycles {
        // Not before every agent is in contact, which the run waits for.
        let first = SYNCS_OF_AN_AGENT * (load.polling + load.streaming) + random.random_range(40..400);
        let inject = format!("inject=fdatasync,fsync:error=EIO:when={first}+");
        // --seccomp-bpf stops the server only at these calls, so that it runs at its own speed otherwise.
        let tracer =
            ["strace", "-f", "--seccomp-bpf", "-qq", "-o", "/dev/null", "-e", "trace=fdatasync,fsync", "-e", &inject];
        let mut rig = Rig::start(Backend::Sqlite, load, None, &tracer).await?;
        let outcome = end_and_restart(&mut rig).await;
        let checked = rig.check().await;
        let error = outcome.as_ref().err().or(checked.as_ref().err()).map(|error| format!("{error:#}"));
        rig::report("fsync", cycle, &json!({ "fails_from": first, "error": error }), checked.as_ref().ok());
        score.cycle(outcome.is_ok(), Some(checked.is_ok_and(|findings| findings.sound())));
        rig.close().await?;
    }
    Ok(score)
}

async fn end_and_restart(rig: &mut Rig) -> Result<()> {
    let server = &mut rig.servers[0];
    let status = server.process.wait(CEILING).await.context("after a failed sync the server must end")?;
    ensure!(!status.success(), "the server said that all is well after a failed sync");
    server.restart_without_wrapper().await?;
    rig.acknowledges_again(BACK_CEILING).await
}

fn muster_random(seed: Option<u64>) -> rand::rngs::StdRng {
    rand::SeedableRng::seed_from_u64(seed.unwrap_or_else(rand::random))
}
