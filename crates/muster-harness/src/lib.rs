//! What the tests, the crash runs and the benches stand on: guards around real processes, a private PostgreSQL, the
//! original's own programs as peers, and a load program that speaks the original's wire.
//!
//! Stays true: a guard ends what it started, by its process id, and nothing else; a missing program is an error that
//! says how to get it, never a reason to skip; the wire is described here a second time, by hand, so that a mistake in
//! the product's own description cannot hide.
//! Not here: what is tested (`tests/it`) and chores (xtask).

pub mod admin;
pub mod agent;
pub mod client;
pub mod clock;
pub mod evil;
pub mod identity;
pub mod investigator;
pub mod ledger;
pub mod link;
pub mod original;
pub mod peers;
pub mod postgres;
pub mod process;
pub mod programs;
pub mod recorder;
pub mod rest;
pub mod server;
pub mod swarm;
pub mod terminal;
pub mod wait;
pub mod wire;
