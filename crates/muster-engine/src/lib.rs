//! What the server does, free of sockets, SQL and wire formats.
//!
//! Stays true: nothing is answered before the store has committed it; the database decides races; whatever a stranger
//! sends is refused with a reason and spoils nobody else's contact; time, randomness, codecs and connections to other
//! servers are handed in.

pub mod access;
pub mod config;
pub mod contact;
pub mod dispatch;
pub mod engine;
pub mod outside;

pub use config::{EngineConfig, EnrolmentPolicy};
pub use contact::{Refusal, RefusalCode, StreamEnd, StreamEvent, StreamIn, StreamOut};
pub use dispatch::{Service, ServiceError};
pub use engine::{Engine, OperatorError};
pub use outside::{Outside, Random, SystemCodec, Waker};
