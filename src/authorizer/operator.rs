//! Operators: callers who administer, and the permissions they are asked for by type.
//!
//! A use case takes an [`Operator<P>`] as an argument, and the only way to one is to have been admitted
//! with `P`: a call that forgets to ask does not compile.

use std::marker::PhantomData;

use crate::account::AccountId;
use crate::decision::Denial;
use crate::error::{Error, Reason};
use crate::grant;
use crate::key::KeyId;
use crate::store::Maker;

/// A permission, as a type.
pub trait Permission: Send + Sync + 'static {
    /// The scope that grants it.
    const SCOPE: &'static str;
    /// Whether what it lets somebody see has no mark that says that it may be too old. Changes are judged once more, on
    /// the rows, and decisions have the mark.
    const SHOWS: bool;
}

macro_rules! permissions {
    ($($(#[$doc:meta])* $name:ident = $scope:literal, shows: $shows:literal;)*) => {
        $($(#[$doc])* #[derive(Debug)] pub enum $name {}
        impl Permission for $name {
            const SCOPE: &'static str = $scope;
            const SHOWS: bool = $shows;
        })*
    };
}

permissions! {
    /// Ask for decisions, where callers are asked for their own key.
    Decide = "latchkey:authorize", shows: false;
    /// See keys.
    ReadKeys = "latchkey:keys.read", shows: true;
    /// Create, change, rotate and revoke keys.
    WriteKeys = "latchkey:keys.write", shows: false;
    /// See accounts.
    ReadAccounts = "latchkey:accounts.read", shows: true;
    /// Create and change accounts.
    WriteAccounts = "latchkey:accounts.write", shows: false;
    /// See the audit trail.
    ReadAudit = "latchkey:audit.read", shows: true;
    /// See the nodes.
    ReadNodes = "latchkey:nodes.read", shows: true;
    /// See the policy.
    ReadPolicy = "latchkey:policy.read", shows: true;
    /// Replace the policy.
    WritePolicy = "latchkey:policy.write", shows: false;
}

/// A caller who was admitted with the permission `P`.
#[derive(Debug)]
pub struct Operator<P> {
    /// Its key.
    pub key_id: KeyId,
    /// Its account: the reserved one acts on all, another on itself.
    pub account: AccountId,
    /// From where it called, for the audit trail.
    pub peer: String,
    permission: PhantomData<P>,
}

impl<P: Permission> Operator<P> {
    pub(super) fn new(key_id: KeyId, account: AccountId, peer: String) -> Self {
        Self { key_id, account, peer, permission: PhantomData }
    }

    /// As the store sees it: to be checked again, on the rows.
    #[must_use]
    pub fn maker(&self) -> Maker {
        Maker::Key { id: self.key_id, scope: P::SCOPE }
    }

    /// The one account that it acts on; `None` means all.
    #[must_use]
    pub fn only(&self) -> Option<AccountId> {
        (!self.account.is_reserved()).then(|| self.account.clone())
    }

    /// Fails unless it acts on all accounts.
    pub fn check_reserved(&self) -> Result<(), Error> {
        grant::check_reserved(&self.account)
    }

    /// Whether it may see what belongs to this account.
    #[must_use]
    pub fn reaches(&self, account: &AccountId) -> bool {
        self.account.is_reserved() || self.account == *account
    }
}

/// What a caller who was not admitted is told: outsiders learn no more than that the token is not valid.
pub(super) fn refusal(denial: Denial, scope: &'static str) -> Error {
    match denial {
        Denial::MissingCredential => Error::new(
            Reason::MissingCredential,
            "this call needs an operator's token in the metadata `authorization: Bearer TOKEN`",
        ),
        Denial::MalformedCredential
        | Denial::UnknownKey
        | Denial::KeyRevoked
        | Denial::KeyDisabled
        | Denial::KeyExpired => {
            Error::new(Reason::InvalidCredential, "the operator's token is not valid")
        }
        Denial::AccountSuspended => {
            Error::new(Reason::CallerSuspended, "the operator's account is suspended")
        }
        Denial::AddressNotAllowed => Error::new(
            Reason::AddressNotAllowed,
            "the operator's key may not be used from this address",
        ),
        Denial::WrongEnvironment
        | Denial::InsufficientScope
        | Denial::RateLimited
        | Denial::QuotaExceeded
        | Denial::RouteDenied => {
            Error::new(Reason::PermissionDenied, format!("this call needs the scope `{scope}`"))
                .with("scope", scope)
        }
    }
}
