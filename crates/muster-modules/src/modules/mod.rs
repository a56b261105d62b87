//! The modules, a file or a folder each.

pub(crate) mod file;
pub(crate) mod timedrift;

#[cfg(test)]
pub(crate) mod testing;
