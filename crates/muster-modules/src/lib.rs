//! What an agent can do: modules that look at one machine and answer with what they found.
//!
//! Stays true: a module is a question with typed parameters, limits, a declared least weight and whether it changes
//! anything; its parameters and results are MIG's, so that actions and clients written for MIG work; what is found is
//! named with its metadata and never handed out itself. Hostile files, giant parameters and things that vanish make
//! errors in the result, never a panic or a hang.
//! Not here: who may ask (muster-trust), how questions travel (the agent), the network to the server.
//!
//! Where to start: [`registry`] knows the modules, [`run`] is one question in a process of its own ([`child`]), [`host`]
//! is the side that starts such processes, [`arguments`] makes parameters of a command line. A program of its own that is
//! a module implements [`Typed`] and calls [`run`]; [`files`] finds files for it.

pub mod arguments;
pub mod child;
pub mod confine;
pub mod files;
pub mod filesystems;
pub mod foreign;
pub mod gotext;
pub mod host;
pub mod message;
pub mod module;
pub mod packages;
pub mod pattern;
pub mod place;
pub mod privacy;
pub mod registry;
pub mod result;
pub mod run;
pub mod sandbox;
pub mod user;

mod modules;
mod parameters;
mod reading;

pub use arguments::{ArgumentError, help, params_from_args};
pub use message::Message;
pub use module::{Context, Effect, Lines, Module, ModuleInfo, Privilege, Refused, Stop, Typed};
pub use result::{ModuleResult, missing};
pub use run::{run, run_here};
pub use sandbox::Needs;
