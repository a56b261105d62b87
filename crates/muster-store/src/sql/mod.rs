//! The methods: each statement once, for both databases.
//!
//! A file holds the statements and bodies of one topic; the `impl` of its trait at the end only hands arguments on.

mod action_cancels;
mod action_ends;
mod action_rows;
mod action_work;
mod actions;
mod agents;
mod broadcasts;
mod cluster;
mod commands;
mod contacts;
mod copy;
mod effects;
mod endpoints;
mod events;
mod files;
mod fleet;
mod investigators;
mod journal;
mod look;
mod mailbox;
mod message_page;
mod message_rows;
mod messages;
mod modules;
mod reports;
mod results;
mod retention;
mod searches;
mod sessions;
mod states;
mod succession;
mod targets;
mod tokens;
mod trust;
mod usage;

pub use look::sqlite_soundness;
