//! The commands with which people and scripts use a Muster server.
//!
//! Stays true: everything a command knows of the server it learned from the REST API; `module` runs modules on
//! this machine and asks no server; orders are signed on this machine, and the server never sees a secret key; results go
//! to standard output (tables, or the API's JSON with `--json`), everything else to standard error; how a command ended
//! is its exit code.
//! Not here: commands that start a server or open its database (program `muster`), and what the API means
//! (muster-server).

pub mod book;
pub mod commands;
pub mod connect;
pub mod failure;
pub mod globals;
pub mod output;
pub mod save;
pub mod values;

mod api;
mod authority;
mod known;
mod list;
mod own;
mod proof;
mod resolve;
mod results;
mod signing;
mod terminal;
mod trusted;
mod unreachable;

pub use api::Api;
pub use commands::Operator;
pub use failure::{Exit, Failure};
pub use globals::Globals;
pub use output::Output;

/// What a command works with.
#[derive(Debug, Clone)]
pub struct Context {
    /// The server.
    pub api: Api,
    /// Where results go.
    pub out: Output,
}

impl Context {
    /// Finds the server and prepares to speak with it.
    pub fn new(globals: &Globals) -> Result<Self, Failure> {
        let door = connect::find(globals)?;
        let api = Api::new(door, globals.timeout)?;
        Ok(Self { api, out: Output::new(globals.json) })
    }
}

/// Tells a failure on standard error, as text or as JSON, and returns the exit code.
pub fn tell(failure: &Failure, json: bool) -> u8 {
    use std::io::{IsTerminal as _, Write as _};
    if !failure.is_silent() {
        let text = match (json, std::io::stderr().is_terminal()) {
            (false, _) => failure.to_string(),
            (true, false) => serde_json::json!({ "error": failure }).to_string(),
            (true, true) => output::safe_json(&serde_json::json!({ "error": failure }).to_string()),
        };
        // Nobody is left to be told when standard error is gone.
        let _ = writeln!(std::io::stderr(), "{text}");
    }
    failure.exit.code()
}
