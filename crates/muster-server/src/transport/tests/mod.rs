//! The door as agents and strangers meet it: over sockets, against the real engine and a store on a temporary file.
//! Names that start with `r` and `s` and a number are rows of the tables of bad inputs and of identity rules.

mod client;
mod doors;
mod files;
mod hostile;
mod identity;
mod lists;
mod poll;
mod stream;
mod world;
