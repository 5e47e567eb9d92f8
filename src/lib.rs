//! latchkey issues API keys and decides, for every request of every other service, whether the key on
//! it may do what the request asks.
//!
//! Read in this order: the domain ([`token`] to [`revision`]), what it stands on ([`store`], [`cache`],
//! [`feed`]), the two use cases ([`authorizer`], [`keyring`]), then the transport and the process.
//! `ARCHITECTURE.md` has the map.

pub mod token;

pub mod scope;

pub mod policy;

pub mod account;
pub mod key;

pub mod grant;
pub mod lease;

pub mod decision;

pub mod audit;

pub mod bounded;
pub mod clock;
pub mod error;
pub mod revision;

pub mod metrics;

pub mod store;

pub mod cache;
pub mod feed;
pub mod filling;
pub mod verifier;

pub mod authorizer;
pub mod keyring;

pub mod gateway;
pub mod grpc;
pub mod http;
pub mod proto;

pub mod serve;

pub mod app;
pub mod cli;
pub mod config;
pub mod delivery;
pub mod failure;
pub mod machine;
pub mod telemetry;

/// What the targets in `fuzz/` reach beside the rest; nobody else should.
#[doc(hidden)]
pub mod inside {
    pub use crate::grpc::convert::{policy_from_proto, policy_to_proto};

    /// Page tokens.
    pub mod page {
        pub use crate::keyring::page::{cut, read};
    }
}
