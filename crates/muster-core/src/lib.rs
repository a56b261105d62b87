//! The words of Muster: plain values that every other room speaks.
//!
//! Stays true: nothing here does I/O, waits, reads a clock or draws a random number; what a function needs of the
//! world is an argument. Not here: wire formats (muster-proto), what is remembered (muster-store), policy (muster-engine).

pub mod action;
pub mod agent;
pub mod broadcast;
pub mod cause;
pub mod contact;
pub mod file;
pub mod handover;
pub mod ids;
pub mod label;
pub mod limits;
pub mod message;
pub mod nonce;
pub mod retry;
pub mod system;
pub mod target;
pub mod text;
pub mod time;

pub use action::{Action, ActionId, CommandId, InvestigatorId};
pub use agent::{Agent, AgentState, Contact, Facts, ResourceUsage};
pub use broadcast::{Allocation, Broadcast, BroadcastLimit};
pub use cause::Cause;
pub use handover::{Handover, Introduction};
pub use ids::{AgentId, AllocationId, BroadcastId, ContactId, IdError, MessageId, ServerId};
pub use label::Label;
pub use message::{Address, Message, MessageResult, Payload, Priority};
pub use time::{Clock, Timestamp};
