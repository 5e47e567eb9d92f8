//! The ways in which something is taken away from a key, and from when on it must be denied.

use std::time::{Duration, Instant, SystemTime};

use latchkey::proto::v1::revoke_key_request::Target;
use latchkey::proto::v1::{
    Account, ApplyPolicyRequest, DecisionReason, GetPolicyRequest, Key, Policy, Receipt,
    RevokeKeyRequest, Scope, UpdateAccountRequest, UpdateKeyRequest,
};
use prost_types::FieldMask;
use tokio::sync::Mutex;
use tonic::Status;

use super::log::now;
use super::{Held, Operator};

/// Longer than it takes all nodes, on a busy machine too.
const WAIT: Duration = Duration::from_secs(20);

/// A way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Way {
    Revoke,
    /// Revoked, and answered when the receipt has come true.
    RevokeAndWait,
    Disable,
    /// The key holds less.
    Narrow,
    Suspend,
    /// What the key holds contains less.
    Policy,
}

/// A change that was answered.
#[derive(Debug, Clone, Copy)]
pub(super) struct Made {
    pub(super) way: Way,
    pub(super) question: usize,
    /// The node that answered.
    pub(super) node: usize,
    pub(super) sent: Instant,
    pub(super) answered: Instant,
    /// From when on no node allows it, as the receipt says.
    pub(super) effective: SystemTime,
}

impl Way {
    pub(super) const OTHERS: [Self; 5] =
        [Self::RevokeAndWait, Self::Disable, Self::Narrow, Self::Suspend, Self::Policy];

    /// The scope that the key gets, and the one that it is asked for; each policy is changed for one key.
    pub(super) fn scopes(self, number: usize) -> (String, String) {
        let (holds, asked) = match self {
            Self::Revoke | Self::RevokeAndWait | Self::Disable | Self::Suspend => {
                ("memory:read", "memory:read")
            }
            Self::Narrow => ("memory:write", "memory:write"),
            Self::Policy => return (format!("all:of-{number}"), format!("part:of-{number}")),
        };
        (holds.to_owned(), asked.to_owned())
    }

    /// Why the key is denied from then on.
    pub(super) const fn reason(self) -> DecisionReason {
        match self {
            Self::Revoke | Self::RevokeAndWait => DecisionReason::KeyRevoked,
            Self::Disable => DecisionReason::KeyDisabled,
            Self::Narrow | Self::Policy => DecisionReason::InsufficientScope,
            Self::Suspend => DecisionReason::AccountSuspended,
        }
    }
}

/// Changes policies one after the other, as each is made of the one before.
#[derive(Default)]
pub(super) struct Policies(Mutex<()>);

impl Policies {
    /// Adds the scopes of so many keys whose policy is to be changed.
    pub(super) async fn prepare(&self, operator: &mut Operator, numbers: &[usize]) {
        let scopes = numbers.iter().flat_map(|number| {
            let (all, part) = Way::Policy.scopes(*number);
            let scope = |name: &String, implies| Scope {
                name: name.clone(),
                implies,
                ..Default::default()
            };
            [scope(&all, vec![part.clone()]), scope(&part, Vec::new())]
        });
        let scopes: Vec<_> = scopes.collect();
        let change = move |policy: &mut Policy| policy.scopes.extend(scopes);
        self.change(operator, change).await.unwrap();
    }

    async fn change(
        &self,
        operator: &mut Operator,
        change: impl FnOnce(&mut Policy),
    ) -> Result<Option<Receipt>, Status> {
        let _one_at_a_time = self.0.lock().await;
        // The node may not have read what another has just answered.
        let policy = operator.policies.get_policy(GetPolicyRequest {}).await?.into_inner().policy;
        let mut policy = policy.unwrap();
        change(&mut policy);
        let request = ApplyPolicyRequest { policy: Some(policy), ..Default::default() };
        Ok(operator.policies.apply_policy(request).await?.into_inner().receipt)
    }
}

impl Operator {
    /// Takes it away at this node, and says so again until that is answered.
    pub(super) async fn take_away(
        &mut self,
        way: Way,
        key: &Held,
        (question, node): (usize, usize),
        policies: &Policies,
    ) -> Made {
        let sent = now();
        let receipt = until_done!(self.try_to_take_away(way, key, question, policies).await);
        Made { way, question, node, sent, answered: now(), effective: effective(&receipt) }
    }

    async fn try_to_take_away(
        &mut self,
        way: Way,
        key: &Held,
        number: usize,
        policies: &Policies,
    ) -> Result<Receipt, Status> {
        let mask = |path: &str| Some(FieldMask { paths: vec![path.to_owned()] });
        let named = Key { key_id: key.id.clone(), ..Default::default() };
        let update = |key, path| UpdateKeyRequest {
            key: Some(key),
            update_mask: mask(path),
            ..Default::default()
        };
        let receipt = match way {
            Way::Revoke | Way::RevokeAndWait => {
                let target = Some(Target::KeyId(key.id.clone()));
                let wait = (way == Way::RevokeAndWait).then(|| WAIT.try_into().unwrap());
                let request = RevokeKeyRequest { target, wait, ..Default::default() };
                self.keys.revoke_key(request).await?.into_inner().receipt
            }
            Way::Disable => {
                let request = update(Key { disabled: true, ..named }, "disabled");
                self.keys.update_key(request).await?.into_inner().receipt
            }
            Way::Narrow => {
                let scopes = vec!["memory:read".to_owned()];
                let request = update(Key { scopes, ..named }, "scopes");
                self.keys.update_key(request).await?.into_inner().receipt
            }
            Way::Suspend => {
                let account_id = key.account.clone();
                let request = UpdateAccountRequest {
                    account: Some(Account { account_id, suspended: true, ..Default::default() }),
                    update_mask: mask("suspended"),
                    ..Default::default()
                };
                self.accounts.update_account(request).await?.into_inner().receipt
            }
            Way::Policy => {
                let (all, _) = way.scopes(number);
                let narrow = |policy: &mut Policy| {
                    let scope = policy.scopes.iter_mut().find(|scope| scope.name == all);
                    scope.unwrap().implies.clear();
                };
                policies.change(self, narrow).await?
            }
        };
        Ok(receipt.unwrap())
    }
}

/// The instant that the receipt names.
fn effective(receipt: &Receipt) -> SystemTime {
    let at = receipt.effective_everywhere_time.unwrap();
    let seconds = Duration::from_secs(at.seconds.cast_unsigned());
    SystemTime::UNIX_EPOCH + seconds + Duration::from_nanos(at.nanos.cast_unsigned().into())
}
