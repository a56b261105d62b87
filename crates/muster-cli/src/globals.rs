//! The flags that every command has.

use std::path::PathBuf;
use std::time::Duration;

/// The data directory of a server that was installed as a service.
pub const DATA_DEFAULT: &str = "/var/lib/muster";

/// The flags that every command has.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct Globals {
    /// Print JSON: the answer of the API; lists are pages with `items`
    #[arg(long, global = true, env = "MUSTER_JSON", help_heading = "Everywhere")]
    pub json: bool,
    /// The server's data directory, where commands find its address and token: /var/lib/muster, or that of a running
    /// `muster dev`, unless told
    #[arg(long, global = true, env = "MUSTER_DATA", value_name = "DIR", help_heading = "Everywhere")]
    pub data: Option<PathBuf>,
    /// The server's address, such as https://muster.example:8080
    #[arg(long, global = true, env = "MUSTER_URL", help_heading = "Everywhere")]
    pub url: Option<String>,
    /// The access token, or @FILE to read it from a file
    #[arg(long, global = true, env = "MUSTER_TOKEN", hide_env_values = true, help_heading = "Everywhere")]
    pub token: Option<String>,
    /// Send the access token also over http:// to another machine, where everybody on the way can read it
    #[arg(long, global = true, env = "MUSTER_TOKEN_IN_CLEAR", help_heading = "Everywhere")]
    pub token_in_clear: bool,
    /// Trust the certificates in this PEM file for https, and no others
    #[arg(long, global = true, env = "MUSTER_CA", value_name = "FILE", help_heading = "Everywhere")]
    pub ca: Option<PathBuf>,
    /// How long one request may take
    #[arg(
        long,
        global = true,
        env = "MUSTER_TIMEOUT",
        value_name = "DURATION",
        value_parser = crate::values::duration,
        default_value = "30s",
        help_heading = "Everywhere"
    )]
    pub timeout: Duration,
}
