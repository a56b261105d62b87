//! What a running server takes from a configuration that is read again.

use crate::config::Config;
use crate::observe;
use tracing::{info, warn};

/// What of the configuration changes while a server runs.
pub(super) struct Reload {
    pub(super) logs: observe::LogLevel,
    /// What counts now.
    pub(super) config: Config,
}

impl Reload {
    pub(super) fn configuration(&mut self, read: Result<Config, String>) {
        let new = match read {
            Ok(new) => new,
            Err(why) => return warn!("the configuration is not valid, everything stays as it was: {why}"),
        };
        if new.logs.level != self.config.logs.level {
            match self.logs.set(&new.logs) {
                Ok(()) => {
                    info!(level = new.logs.level, "the log level is now {}", new.logs.level);
                    self.config.logs.level.clone_from(&new.logs.level);
                }
                Err(why) => warn!("could not change the log level: {why}"),
            }
        }
        let later = self.config.differences(&new);
        if later.is_empty() {
            info!("the configuration was read again");
        } else {
            let keys = later.join(", ");
            warn!(keys, "the configuration was read again; these keys changed and count from the next start: {keys}");
        }
    }
}
