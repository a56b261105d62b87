//! The start of the spool of actions, where one is configured.

use super::{Opened, ServeError, Step};
use crate::spool::{Options, Spool};

impl Opened {
    /// Takes the spool and follows it.
    pub(super) async fn spool(&mut self) -> Result<(), ServeError> {
        let Some(options) = Options::of(&self.config.spool) else { return Ok(()) };
        let step = Step(format!("use the spool {}", options.directory.display()));
        let engine = self.engine.clone();
        let opened = tokio::task::spawn_blocking(move || Spool::open(options, engine)).await;
        let spool = match opened {
            Ok(Ok(spool)) => spool,
            Ok(Err(error)) => return Err(step.failed(error)),
            Err(panic) => return Err(step.failed(panic)),
        };
        let until = self.stop.clone();
        self.tasks.spawn(async move {
            spool.follow(until).await;
            Ok(())
        });
        Ok(())
    }
}
