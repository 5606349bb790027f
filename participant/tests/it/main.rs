//! A real server on the loopback interface, in this process: what callers see, what a restart keeps, what is refused.
#![allow(clippy::unwrap_used, reason = "test code")]

mod accounts;
mod directory;
mod fixture;
mod restart;
mod stream;
mod unary;
mod verify;
