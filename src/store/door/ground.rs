//! The ground on which a mutation is judged: the policy, and who asks, both as the rows have them now.

use std::sync::Arc;

use super::{Door, Halt, Rows};
use crate::account::AccountId;
use crate::error::{Error, Reason};
use crate::grant;
use crate::key::{KeyRecord, KeyState};
use crate::policy::Catalogue;
use crate::revision::Position;
use crate::store::{Maker, StoreError};

/// The policy in force and the maker.
pub(super) struct Ground {
    pub(super) catalogue: Arc<Catalogue>,
    pub(super) policy_revision: Position,
    pub(super) authority: Authority,
}

/// By what right a change is made.
pub(super) enum Authority {
    /// latchkey itself: everything.
    System,
    /// An operator's key, as its row is now: what its scopes, account and grant allow.
    Key(Box<KeyRecord>),
}

impl Ground {
    /// Reads the policy and the maker, and fails unless the maker may make this call at all.
    pub(super) async fn of<R: Rows>(door: &mut Door<'_, R>) -> Result<Self, Halt> {
        let (catalogue, policy_revision) = door.rows.catalogue().await?.ok_or_else(|| {
            StoreError::Unusable("the store is empty: it has to be seeded first".into())
        })?;
        let authority = match &door.mutation.maker {
            Maker::System(_) => Authority::System,
            Maker::Key { id, scope } => {
                let key = door.rows.key(*id).await?;
                let key =
                    key.filter(|key| key.state(door.at) == KeyState::Active).ok_or_else(|| {
                        Error::new(Reason::InvalidCredential, "your key cannot be used any more")
                    })?;
                check_account(door, &key).await?;
                check_scope(&key, scope, &catalogue)?;
                Authority::Key(Box::new(key))
            }
        };
        Ok(Self { catalogue, policy_revision, authority })
    }
}

impl Authority {
    /// Fails, with the one text, unless this account is within reach.
    pub(super) fn check_reach(&self, account: &AccountId) -> Result<(), Error> {
        match self {
            Self::System => Ok(()),
            Self::Key(key) => grant::check_reach(&key.account, account),
        }
    }

    /// Fails unless this key, as it is or will be, lies within what the maker may hand out.
    pub(super) fn check_grant(&self, key: &KeyRecord, catalogue: &Catalogue) -> Result<(), Error> {
        match self {
            Self::System => Ok(()),
            Self::Key(maker) => grant::check(maker, key, catalogue),
        }
    }

    /// Fails unless the maker is a key of the reserved account.
    pub(super) fn check_reserved(&self) -> Result<(), Error> {
        match self {
            Self::System => Ok(()),
            Self::Key(key) => grant::check_reserved(&key.account),
        }
    }

    /// The account of the maker.
    pub(super) fn account(&self) -> AccountId {
        match self {
            Self::System => AccountId::reserved(),
            Self::Key(key) => key.account.clone(),
        }
    }
}

/// Fails unless latchkey itself asks: no key may do this, whatever it holds.
pub(super) fn check_system(maker: &Maker) -> Result<(), Error> {
    match maker {
        Maker::System(_) => Ok(()),
        Maker::Key { .. } => {
            Err(Error::new(Reason::PermissionDenied, "no key may do this; it needs the store"))
        }
    }
}

async fn check_account<R: Rows>(door: &mut Door<'_, R>, key: &KeyRecord) -> Result<(), Halt> {
    let account = door.rows.account(&key.account).await?.ok_or_else(|| no_account(key))?;
    if account.suspended {
        return Err(Error::new(Reason::CallerSuspended, "your account is suspended").into());
    }
    Ok(())
}

fn check_scope(key: &KeyRecord, scope: &str, catalogue: &Catalogue) -> Result<(), Error> {
    let held = catalogue.held(&key.scopes);
    if catalogue.index(scope).is_some_and(|index| held.contains(index)) {
        return Ok(());
    }
    Err(Error::new(Reason::PermissionDenied, format!("your key does not hold `{scope}`"))
        .with("scope", scope))
}

/// What is wrong when a key's account is not there.
pub(super) fn no_account(key: &KeyRecord) -> StoreError {
    StoreError::Corrupt {
        table: "keys",
        row: key.id.to_string(),
        what: format!("its account `{}` is not there", key.account),
    }
}
