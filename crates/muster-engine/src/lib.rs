//! What the server does, free of sockets, SQL and wire formats.
//!
//! Stays true: nothing is answered before the store has committed it; the database decides races; whatever a stranger
//! sends is refused with a reason and spoils nobody else's contact; time, randomness, codecs and connections to other
//! servers are handed in.

pub mod access;
pub mod actions;
mod backup;
mod broadcasts;
pub mod condition;
pub mod config;
pub mod contact;
mod disk;
pub mod dispatch;
pub mod engine;
mod files;
mod gates;
mod handing;
mod identity;
mod intake;
mod jobs;
mod mailbox;
pub mod outside;
mod pace;
mod portion;
mod registry;
mod stream;
mod targets;
mod wakeups;

pub use access::{AccessDenied, Caller, Grant, NewEnrolToken, NewToken, Permission, Permissions, Principal, Role};
pub use actions::{
    ActionOutcome, ActionPreview, ApiKey, InvestigatorUpdate, NewInvestigator, OperationDemand, PreviewDemand,
    PreviewRefusal, SaidBy, TokenRefusal, TokenRules, TrustDocument, TrustRecipients, TrustSent, signed_text,
};
pub use condition::{Condition, ServiceState};
pub use config::{EngineConfig, EnrolmentPolicy};
pub use contact::{ContactFrom, Refusal, RefusalCode};
pub use dispatch::{Service, ServiceError};
pub use engine::{Engine, OperatorError};
pub use files::FileUpload;
pub use mailbox::MessageOrigin;
pub use outside::{Outside, Random, SignedCancel, SystemCodec, WakeRefusal, WakeUp, Waker};
pub use stream::{Handed, OpenStream, StreamEnd, StreamEvent, StreamIn, StreamOut};
pub use targets::{TargetChecked, TargetFound, TargetSeen};

#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
