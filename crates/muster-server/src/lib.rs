//! The edges of a server: its doors, its configuration, and the wiring of everything behind them.
//!
//! Stays true: a door decides nothing but who is there and what was said; permission and effect are the engine's and
//! the store's. Not here: SQL, policy, and what any other program would need.

pub mod admin;
mod auth;
pub mod codec;
pub mod config;
pub mod doctor;
pub mod import;
pub mod listener_certificates;
mod mig;
pub mod observe;
pub mod offline;
pub mod ownership;
pub mod pki;
pub mod private_file;
pub mod rest;
pub mod serve;
pub mod services;
mod spool;
pub mod tls;
pub mod transport;
pub mod world;

pub use config::Config;
