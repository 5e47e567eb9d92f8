//! The audit trail: the use case of `AuditService`.

use super::{Keyring, Page, page};
use crate::account::AccountId;
use crate::audit::{Entry, Kind};
use crate::authorizer::Operator;
use crate::authorizer::operator::ReadAudit;
use crate::clock::Timestamp;
use crate::error::Error;
use crate::key::{Actor, KeyId};
use crate::store::AuditQuery;

/// Which entries are listed. Every field that is given narrows.
#[derive(Debug)]
pub struct AuditList {
    /// About this account or its keys.
    pub account: Option<AccountId>,
    /// About this key.
    pub key: Option<KeyId>,
    /// About records of this kind.
    pub kind: Option<Kind>,
    /// Made by this.
    pub actor: Option<Actor>,
    /// At this instant or later.
    pub start: Option<Timestamp>,
    /// Before this instant.
    pub end: Option<Timestamp>,
    /// At most so many on a page.
    pub page_size: u32,
    /// What the page before gave; empty for the first.
    pub page_token: String,
}

impl Keyring {
    /// One page of the audit trail, the latest entry first. Who does not act on all accounts sees what
    /// concerns its own: its account, its keys, and the policy, which rules them.
    pub async fn query_audit(
        &self,
        operator: &Operator<ReadAudit>,
        list: AuditList,
    ) -> Result<Page<Entry>, Error> {
        let binding = binding(operator, &list);
        let AuditList { account, key, kind, actor, start, end, page_size, page_token } = list;
        if let Some(account) = &account {
            self.check_account(operator, account).await?;
        }
        if let Some(key) = key {
            let record = self.store.key(key).await?;
            record.filter(|key| operator.reaches(&key.account)).ok_or_else(Error::not_found)?;
        }
        let query = AuditQuery {
            reach: operator.only(),
            account,
            key,
            kind,
            actor,
            start,
            end,
            before: page::read(&page_token, &binding, |n| n.parse().ok())?,
            limit: page_size,
        };
        let found = self.store.audit(&query).await?;
        let next_page_token = match found.entries.last() {
            Some(Entry { revision, .. }) if found.has_more => {
                page::write(&binding, &revision.n.to_string())
            }
            Some(_) | None => String::new(),
        };
        Ok(Page { items: found.entries, next_page_token })
    }
}

/// What a page token belongs to.
fn binding(operator: &Operator<ReadAudit>, list: &AuditList) -> String {
    let AuditList { account, key, kind, actor, start, end, page_size: _, page_token: _ } = list;
    let caller = &operator.account;
    format!("audit {caller} {account:?} {key:?} {kind:?} {actor:?} {start:?} {end:?}")
}
