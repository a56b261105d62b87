//! `muster-agent`: the program on a machine. It keeps in touch with a server, hands messages to services of this
//! machine, runs what people signed for it, carries answers back, and tells what this machine is.
//!
//! Stays true: what a service handed over survives a crash until the server has it; nothing of a message's body is
//! logged; the agent believes no server but the pinned ones. Not here: what the wire looks like (muster-proto).

mod actions;
mod book;
mod chain;
pub mod cli;
mod comms;
mod config;
mod doctor;
mod durable;
mod facts;
mod hub;
mod ids;
mod keys;
mod ledger;
mod module_doctor;
mod outbox;
mod pinned;
mod pins;
mod places;
mod presence;
mod private;
mod requests;
mod rest;
mod revocations;
mod revoked;
mod run;
mod server_may;
mod services;
mod settings;
mod spool;
mod spool_record;
mod standing;
mod state;
mod usage;
mod vouched;
mod why;
mod world;
