//! Tests of the engine over a real store.

mod broadcasts;
mod contacts;
mod dispatch;
mod identity;
mod servers;
mod streams;
