//! What is remembered: one contract, two databases.
//!
//! The traits say what a store does; each method is one whole transaction with a name of the domain. [`SqlStore`] keeps
//! them with one text of SQL, written once, on SQLite and on PostgreSQL.
//!
//! Stays true: nothing is answered before it is committed; the database decides races; a method whose future is dropped
//! has happened or has not, never half. Not here: wire formats, HTTP, policy; time is an argument.

pub mod actions;
pub mod agents;
pub mod broadcasts;
pub mod cluster;
pub mod error;
pub mod files;
pub mod investigators;
pub mod journal;
pub mod messages;
pub mod reports;
pub mod searches;
pub mod targets;

mod db;
mod sql;
mod store;

pub use actions::ActionStore;
pub use agents::AgentStore;
pub use broadcasts::BroadcastStore;
pub use cluster::ClusterStore;
pub use db::create::{Created, Password, Role, Roles, name_check};
pub use error::{ErrorKind, SchemaError, StoreError};
pub use files::FileStore;
pub use investigators::InvestigatorStore;
pub use journal::JournalStore;
pub use messages::MessageStore;
pub use reports::ReportStore;
pub use searches::SearchStore;
pub use sql::sqlite_soundness;
pub use store::{DatabaseKind, SqlStore, StoreOptions};
pub use targets::TargetStore;

/// Everything that is remembered.
pub trait Store:
    AgentStore
    + MessageStore
    + BroadcastStore
    + FileStore
    + ClusterStore
    + InvestigatorStore
    + ActionStore
    + ReportStore
    + JournalStore
    + TargetStore
    + SearchStore
{
}
impl<T> Store for T where
    T: AgentStore
        + MessageStore
        + BroadcastStore
        + FileStore
        + ClusterStore
        + InvestigatorStore
        + ActionStore
        + ReportStore
        + JournalStore
        + TargetStore
        + SearchStore
{
}
