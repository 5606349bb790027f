//! The channel against servers that h2 makes, and against peers that speak bytes.
#![allow(clippy::unwrap_used, reason = "test code")]

mod connections;
mod server;
mod streams;
mod unary;
