//! The integration tests, in one binary. `support` says how to write one.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on says so by panicking")]

mod support;

mod api;
mod cli;
mod config;
mod docs;
mod revocation;
mod serving;
mod store;
mod tidy;
mod truth;
