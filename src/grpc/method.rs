//! Which methods there are, and what each asks of its caller before a byte of the message is read.
//!
//! Whether a handler may do what it does is settled by its own [`Operator`](crate::authorizer::Operator);
//! what stands here keeps the bytes of others out, and gives each message its bound.

use std::time::Duration;

use http::request::Parts;

use super::convert::keys::WAIT_MAX;
use super::{Admission, Offer};
use crate::authorizer::operator::{
    ReadAccounts, ReadAudit, ReadKeys, ReadNodes, ReadPolicy, WriteAccounts, WriteKeys, WritePolicy,
};
use crate::error::Error;

/// What a call is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Method {
    Decide,
    /// A decision that a gateway asks for.
    Check,
    ReadKeys,
    WriteKeys,
    /// A change that may wait for the nodes to apply it.
    EndKeys,
    ReadAccounts,
    WriteAccounts,
    ReadPolicy,
    WritePolicy,
    ReadAudit,
    ReadNodes,
    /// Open to everybody.
    Health,
    /// Open to everybody; the only one whose caller sends a stream.
    Reflect,
}

impl Method {
    /// Paths are compared byte by byte: nothing that merely looks like the path of a method, with
    /// another case, another slash or an escape, is one.
    pub(super) fn of(path: &str) -> Option<Self> {
        Some(match path {
            "/latchkey.v1.AuthorizationService/Authorize" => Self::Decide,
            "/envoy.service.auth.v3.Authorization/Check" => Self::Check,
            "/latchkey.v1.KeyService/GetKey"
            | "/latchkey.v1.KeyService/LookupKey"
            | "/latchkey.v1.KeyService/ListKeys" => Self::ReadKeys,
            "/latchkey.v1.KeyService/CreateKey"
            | "/latchkey.v1.KeyService/UpdateKey"
            | "/latchkey.v1.KeyService/RotateKey" => Self::WriteKeys,
            "/latchkey.v1.KeyService/RevokeKey" => Self::EndKeys,
            "/latchkey.v1.AccountService/GetAccount"
            | "/latchkey.v1.AccountService/ListAccounts" => Self::ReadAccounts,
            "/latchkey.v1.AccountService/CreateAccount"
            | "/latchkey.v1.AccountService/UpdateAccount" => Self::WriteAccounts,
            "/latchkey.v1.PolicyService/GetPolicy" => Self::ReadPolicy,
            "/latchkey.v1.PolicyService/ApplyPolicy" => Self::WritePolicy,
            "/latchkey.v1.AuditService/QueryAudit" => Self::ReadAudit,
            "/latchkey.v1.NodeService/ListNodes" => Self::ReadNodes,
            "/grpc.health.v1.Health/Check" | "/grpc.health.v1.Health/Watch" => Self::Health,
            "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"
            | "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo" => Self::Reflect,
            _ => return None,
        })
    }

    /// Whether a listener that offers this answers it.
    pub(super) const fn is_of(self, offer: Offer) -> bool {
        match (self, offer) {
            (Self::Health | Self::Reflect, _) | (_, Offer::All) => true,
            (Self::Decide | Self::Check, offer) => matches!(offer, Offer::Decisions),
            (
                Self::ReadKeys
                | Self::WriteKeys
                | Self::EndKeys
                | Self::ReadAccounts
                | Self::WriteAccounts
                | Self::ReadPolicy
                | Self::WritePolicy
                | Self::ReadAudit
                | Self::ReadNodes,
                offer,
            ) => matches!(offer, Offer::Administration),
        }
    }

    /// The largest message.
    pub(super) const fn bytes_max(self) -> usize {
        match self {
            // A token of 58 bytes and an expression of 1,000 characters; and what is none is told so.
            Self::Decide => 16 * 1024,
            // All headers of a request, of which gateways take 60 KiB, and what was read of its body.
            Self::Check => 256 * 1024,
            Self::ReadKeys
            | Self::WriteKeys
            | Self::EndKeys
            | Self::ReadAccounts
            | Self::WriteAccounts
            | Self::ReadPolicy
            | Self::ReadAudit
            | Self::ReadNodes => 64 * 1024,
            Self::WritePolicy => 1024 * 1024,
            Self::Health | Self::Reflect => 4 * 1024,
        }
    }

    /// What an answer may take longer than others: what its caller may ask to wait.
    pub(super) const fn more_time(self) -> Duration {
        match self {
            Self::EndKeys => WAIT_MAX,
            Self::Decide
            | Self::Check
            | Self::ReadKeys
            | Self::WriteKeys
            | Self::ReadAccounts
            | Self::WriteAccounts
            | Self::ReadPolicy
            | Self::WritePolicy
            | Self::ReadAudit
            | Self::ReadNodes
            | Self::Health
            | Self::Reflect => Duration::ZERO,
        }
    }

    /// Whether a call may have changed something although its answer did not come.
    pub(super) const fn changes(self) -> bool {
        match self {
            Self::WriteKeys | Self::EndKeys | Self::WriteAccounts | Self::WritePolicy => true,
            Self::Decide
            | Self::Check
            | Self::ReadKeys
            | Self::ReadAccounts
            | Self::ReadPolicy
            | Self::ReadAudit
            | Self::ReadNodes
            | Self::Health
            | Self::Reflect => false,
        }
    }

    /// Turns away who may not call this method.
    pub(super) async fn admit(self, admission: &Admission, head: &Parts) -> Result<(), Error> {
        match self {
            Self::ReadKeys => admission.check::<ReadKeys>(head).await,
            Self::WriteKeys | Self::EndKeys => admission.check::<WriteKeys>(head).await,
            Self::ReadAccounts => admission.check::<ReadAccounts>(head).await,
            Self::WriteAccounts => admission.check::<WriteAccounts>(head).await,
            Self::ReadPolicy => admission.check::<ReadPolicy>(head).await,
            Self::WritePolicy => admission.check::<WritePolicy>(head).await,
            Self::ReadAudit => admission.check::<ReadAudit>(head).await,
            Self::ReadNodes => admission.check::<ReadNodes>(head).await,
            // Who may ask for decisions is settled with the question.
            Self::Decide | Self::Check | Self::Health | Self::Reflect => Ok(()),
        }
    }
}
