//! How it is said: the Fleetspeak wire, its frames, and the way between wire types and the words of muster-core.
//!
//! Stays true: nothing here opens a socket or decides whether something is allowed; what a stranger sent is bounded
//! before memory is taken for it, and decoding it never recurses without a limit (prost's own limit of 100 stays on).
//! Not here: which messages are accepted (muster-engine), HTTP and TLS (muster-server).

pub mod channel;
pub mod contact;
pub mod convert;
pub mod framing;
pub mod inflate;
pub mod introduction;
mod scan;
pub mod system;
pub mod text;
pub mod wire;
