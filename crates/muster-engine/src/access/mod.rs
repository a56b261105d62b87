//! Who may do what: the one authority of all listeners.
//!
//! A listener finds out who calls (a token, a certificate, an account of this machine, an investigator's signature) and
//! has a table that maps its routes to [`Permission`]s. Everything else is here: what roles hold, what the permissions of
//! MIG and the older roles of tokens mean, and that nobody gives what they do not hold.
//!
//! Stays true: every command of the engine that changes something on behalf of a person asks the [`Caller`] for a
//! permission, and what it writes into the journal comes out of that question; so a listener that forgets a row of its
//! table still changes nothing.

mod caller;
mod permission;
mod role;
mod tokens;

pub use caller::{AccessDenied, Caller};
pub use permission::{MIG_PERMISSIONS, Permission, Permissions};
pub use role::{Grant, GrantError, Role};
pub use tokens::{Freshness, NewEnrolToken, NewToken, Principal, token_text};

pub(crate) use tokens::TokenMemory;
