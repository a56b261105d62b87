//! The conformance suite of the store: every case on SQLite and on PostgreSQL, with time handed in.
//!
//! A PostgreSQL that is missing fails the suite; nothing is skipped.
#![expect(clippy::unwrap_used, reason = "a case that cannot go on fails")]

mod agents;
mod broadcasts;
mod cluster;
mod connections;
mod contacts;
mod files;
mod messages;
mod model;
mod parity;
mod postgres;
mod properties;
mod proxy;
mod races;
mod schema;
mod servers;
mod stage;
