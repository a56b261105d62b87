//! The spool of actions: a tree of directories into which signed actions are dropped, and where files show how actions
//! stand. Off unless a directory is configured.
//!
//! ```text
//! action/new        dropped files; actions that did not begin     command/ready     not handed out yet
//! action/inflight   actions that wait for results                 command/inflight  handed out
//! action/done       completed or called back                      command/returned  with a result
//! action/invalid    never begun, or refused; NAME.reason says why command/done      done with
//! ```
//!
//! Stays true: the database is the truth, the files are a door and a picture; a file is taken in through the very way
//! that an action over REST takes, and its signed bytes make twice once, so that a crash between taking in and removing
//! neither loses nor doubles; nothing that stands in a file or in its name ends the process or stops other files. Not
//! here: who may order what (muster-engine, and each machine).

mod card;
mod desk;
mod mirror;
mod tree;

#[cfg(test)]
mod tests;

use crate::config;
use crate::observe::Chain;
use desk::{Desk, Dropped, Outcome};
use futures_util::FutureExt as _;
use mirror::ShownAction;
use muster_core::action::{ActionId, ActionStatus};
use muster_core::{Timestamp, limits};
use muster_engine::access::{Caller, Permission, Permissions};
use muster_engine::{Engine, OperatorError};
use muster_store::StoreError;
use muster_store::actions::Spread;
use sha2::{Digest as _, Sha256};
use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::panic::AssertUnwindSafe;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

/// What a spool is told.
#[derive(Debug, Clone)]
pub(crate) struct Options {
    /// Its directory.
    pub(crate) directory: PathBuf,
    /// How long files of what is done with stay.
    pub(crate) keep: Duration,
    /// Whether commands have files too.
    pub(crate) commands: bool,
}

impl Options {
    /// Returns what the configuration says. `None`: there is no spool.
    pub(crate) fn of(spool: &config::Spool) -> Option<Self> {
        let directory = spool.directory.clone()?;
        Some(Self { directory, keep: spool.keep.0, commands: spool.commands })
    }
}

/// Why a look at the spool was cut short.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SpoolError {
    /// Its files.
    #[error("could not {doing} in the spool {}: are its directories there, and may the server write to them?", directory.display())]
    Files {
        /// What was tried.
        doing: &'static str,
        /// Which spool.
        directory: PathBuf,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// The database.
    #[error("could not {doing} for the spool")]
    Store {
        /// What was tried.
        doing: &'static str,
        /// Why it failed.
        #[source]
        source: StoreError,
    },
    /// The database, as the engine says it.
    #[error("could not take an action from the spool")]
    Engine(#[source] OperatorError),
}

/// A spool.
#[derive(Debug)]
pub(crate) struct Spool {
    engine: Engine,
    options: Options,
    desk: Arc<Mutex<Desk>>,
    /// Actions that have files.
    shown: BTreeMap<ActionId, ShownAction>,
    /// Since when actions that ended are to be looked for; `None` for as long as files are kept.
    since: Option<Timestamp>,
    /// When files were removed last, and when those of commands were looked at.
    swept: Option<Timestamp>,
    commands_looked: Option<Timestamp>,
    /// Keeps other servers away.
    _lock: File,
}

impl Spool {
    /// Makes the directories, and takes the spool for this server. Refused: another server has it.
    pub(crate) fn open(options: Options, engine: Engine) -> io::Result<Self> {
        let lock = tree::Tree::claim(&options.directory)?;
        tree::Tree::open(&options.directory)?;
        let desk = Arc::new(Mutex::new(Desk::new(options.directory.clone())));
        let (shown, since, swept, commands_looked) = (BTreeMap::new(), None, None, None);
        Ok(Self { engine, options, desk, shown, since, swept, commands_looked, _lock: lock })
    }

    /// Looks again and again, until `stop`.
    pub(crate) async fn follow(mut self, stop: CancellationToken) {
        let directory = self.options.directory.display().to_string();
        let looks = async move {
            let mut ticks = interval(limits::SPOOL_LOOK);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            let mut failures = 0_u64;
            loop {
                ticks.tick().await;
                // A look that panics is a defect, and still must not be the last.
                match AssertUnwindSafe(self.look()).catch_unwind().await {
                    Err(_) => error!("a look at the spool {directory} ended abnormally, it goes on"),
                    Ok(Err(failure)) => {
                        // A disk that is full is so each second: once is news.
                        if failures == 0 {
                            warn!(error = %Chain(&failure), "could not work on the spool {directory}, trying again");
                        } else {
                            debug!(error = %Chain(&failure), failures, "could still not work on the spool {directory}");
                        }
                        failures += 1;
                    }
                    Ok(Ok(())) if failures > 0 => {
                        info!(failures, "could work on the spool {directory} again");
                        failures = 0;
                    }
                    Ok(Ok(())) => {}
                }
            }
        };
        stop.run_until_cancelled(looks).await;
    }

    /// Looks once: writes what changed, takes in what was dropped, removes what is old.
    pub(crate) async fn look(&mut self) -> Result<(), SpoolError> {
        let now = self.engine.now();
        // What one of these cannot do does not keep the others from theirs.
        let mirrored = self.mirror_actions(now).await;
        let taken = self.import(now).await;
        let mirrored = if matches!(taken, Ok(false)) { mirrored } else { mirrored.and(self.mirror_actions(now).await) };
        let commands = if self.options.commands && is_due(self.commands_looked, now, limits::SPOOL_COMMANDS_LOOK) {
            self.commands_looked = Some(now);
            self.mirror_commands(now).await
        } else {
            Ok(())
        };
        let swept = if is_due(self.swept, now, limits::SPOOL_SWEEP) {
            self.swept = Some(now);
            self.sweep(now).await
        } else {
            Ok(())
        };
        taken.map(drop).and(mirrored).and(commands).and(swept)
    }

    /// Takes in what was dropped. Returns whether there was anything.
    async fn import(&mut self, now: Timestamp) -> Result<bool, SpoolError> {
        let mut is_any = false;
        loop {
            let (dropped, is_more) = self.desk("read dropped files", move |desk| desk.collect(now)).await?;
            if dropped.is_empty() && !is_more {
                return Ok(is_any);
            }
            is_any = true;
            let mut outcomes = Vec::with_capacity(dropped.len());
            let mut failed = None;
            for file in dropped {
                match self.take(&file).await {
                    Ok(outcome) => outcomes.push((file.name, file.identity, outcome)),
                    Err(failure) => {
                        failed = Some(failure);
                        break;
                    }
                }
            }
            self.desk("take dropped files away", move |desk| desk.settle(outcomes, now)).await?;
            match failed {
                Some(failure) => return Err(failure),
                None if !is_more => return Ok(is_any),
                None => {}
            }
        }
    }

    /// Launches the action of one file. An error is the database's; the file stays.
    async fn take(&self, file: &Dropped) -> Result<Outcome, SpoolError> {
        let name = tree::shown(&file.name);
        let permissions = Permissions::of(&[Permission::ActionsLaunch]);
        let caller = Caller::new("spool", permissions, "").because(&format!("dropped into the spool as {name}"));
        let said = if file.action.pgp_signatures.is_empty() { Ok(false) } else { self.is_over(file).await };
        let done = match said {
            Ok(true) => return Ok(Outcome::Taken),
            Ok(false) => self.engine.action_launch(&file.json, spread(), &caller).await.map(drop),
            Err(failure) => Err(failure),
        };
        match done {
            Ok(()) => Ok(Outcome::Taken),
            Err(failure @ OperatorError::Store { .. }) => Err(SpoolError::Engine(failure)),
            Err(refused) => Ok(Outcome::Refused(refused.to_string())),
        }
    }

    /// Returns whether the same bytes were signed and stored before and wait for no signature, whatever became of them
    /// since.
    async fn is_over(&self, file: &Dropped) -> Result<bool, OperatorError> {
        let signed = Sha256::digest(muster_engine::signed_text(&file.action).as_bytes()).into();
        let known = self.engine.store().action_find(signed).await;
        let known = known.map_err(|source| OperatorError::Store { doing: "look for the action", source })?;
        Ok(known.is_some_and(|row| row.status != ActionStatus::Waiting))
    }

    /// Does something with files, off the runtime.
    async fn desk<T, F>(&self, doing: &'static str, work: F) -> Result<T, SpoolError>
    where
        T: Send + 'static,
        F: FnOnce(&mut Desk) -> io::Result<T> + Send + 'static,
    {
        let desk = Arc::clone(&self.desk);
        let work = move || work(&mut desk.lock().unwrap_or_else(PoisonError::into_inner));
        let done = tokio::task::spawn_blocking(work).await.map_err(io::Error::other).flatten();
        done.map_err(|source| SpoolError::Files { doing, directory: self.options.directory.clone(), source })
    }
}

/// How a dropped action spreads: as one over REST of which nothing is said.
fn spread() -> Spread {
    Spread { halt_percent: limits::ACTION_HALT_PERCENT, ..Spread::default() }
}

fn is_due(last: Option<Timestamp>, now: Timestamp, every: Duration) -> bool {
    last.is_none_or(|last| now.since(last) >= every || now < last)
}
