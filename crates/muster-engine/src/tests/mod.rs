//! Tests of the engine over a real store.

mod actions;
mod broadcasts;
mod chaos;
mod clearing;
mod contacts;
mod dispatch;
mod identity;
mod recalls;
mod servers;
mod signing;
mod streams;
mod times;
mod tokens;
