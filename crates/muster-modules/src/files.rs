//! Files for programs that look into them themselves: chosen by the file module's own search, opened as it opens them.
//!
//! Stays true: there is one walk and one set of rules for choosing files, whoever asks.

pub use crate::modules::file::{FileSearch, FilesFound};
pub use crate::reading::open;
