//! The integration tests, in one binary. `support` says how to write one.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on says so by panicking")]

mod support;

mod administrator;
mod api;
mod audit;
mod bad_input;
mod bounds;
mod lifecycle;
mod limits;
mod rights;

mod compose;
mod crash;
mod faults;
mod lease;
mod nodes;
mod poison;
mod receipts;
mod redis;
mod revocation;
mod store;
mod truth;
mod verifier;

mod gateways;
mod hostile;
mod leaks;
mod process;
mod serving;
mod telemetry;
mod tls;

mod cli;
mod config;

mod docs;
mod tidy;
