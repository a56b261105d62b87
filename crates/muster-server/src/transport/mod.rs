//! The agents' door: the Fleetspeak wire over HTTPS, and the wake-ups between servers.
//!
//! Stays true: the accept loop ends only when it is told to; a connection that gives or takes nothing is closed within
//! seconds; nothing a stranger sends takes more memory than was set aside for strangers; what a contact brings is
//! answered only once the engine has it. Not here: who may do what (muster-engine), wire formats (muster-proto).

mod answer;
mod body;
mod connection;
mod door;
mod files;
mod identity;
mod io;
mod message;
mod proxy;
mod signatures;
mod streaming;
mod wake;

pub use door::{Door, DoorError, Listener, Options};
pub use identity::{pem_certificate, xfcc_certificate};
pub use signatures::Signers;
pub use wake::HttpWaker;

#[cfg(test)]
mod tests;
