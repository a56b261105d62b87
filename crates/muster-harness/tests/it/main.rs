//! Tests with real processes: servers, agents, databases, and the original's own programs.
//!
//! One binary on purpose: every further one would link everything again. Each module is one promise to users.
