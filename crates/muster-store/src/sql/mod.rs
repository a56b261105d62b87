//! The methods: each statement once, for both databases.
//!
//! A file holds the statements and bodies of one topic; the `impl` of its trait at the end only hands arguments on.

mod agents;
mod broadcasts;
mod cluster;
mod contacts;
mod copy;
mod effects;
mod endpoints;
mod files;
mod journal;
mod mailbox;
mod message_page;
mod message_rows;
mod messages;
mod reports;
mod retention;
mod tokens;
mod traces;
