//! Targets: expressions that pick machines, in a part of SQL's words.
pub mod endpoint;

pub use endpoint::{Endpoint, tags};
