//! `muster-agent`: the program on a machine. It keeps in touch with a server, hands messages to services of this
//! machine, carries their answers back, and tells what this machine is.
//!
//! Stays true: what a service handed over survives a crash until the server has it; nothing of a message's body is
//! logged; the agent believes no server but the pinned ones. Not here: what the wire looks like (muster-proto).

mod chain;
mod config;
mod durable;
mod facts;
mod keys;
mod ledger;
mod outbox;
mod pinned;
mod spool;
mod spool_record;
mod state;
mod world;
