//! The stories, one subject a file. See the package's README for how to run one seed again and how to add one.

mod half_open;
mod hello;
mod reconnect;
mod replicas;
mod shutdown;
mod storms;
