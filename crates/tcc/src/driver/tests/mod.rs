//! The driver's stories. Each is told to a [`Desk`]: a driver with a log that can be lost, and exact answers.

mod external;
mod harness;
mod links;
mod model;
mod normal;
mod one_phase;
mod operator;
mod recovery;
mod requests;
mod resting;
mod two_step;
mod view;
mod waiting;
