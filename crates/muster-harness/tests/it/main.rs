//! Tests with real processes: servers, agents, databases, and the original's own programs.
//!
//! One binary on purpose: every further one would link everything again. Each module is one promise to users.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails where it stands")]

mod agent;
mod bad_input;
mod clocks;
mod cluster;
mod command_line;
mod databases;
mod evil;
mod floods;
mod identity;
mod investigations;
mod mig;
mod operations;
mod original;
mod recalls;
mod restart;
mod revocations;
mod scene;
mod spool;
