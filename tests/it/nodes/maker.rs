//! Clients that make keys without a pause and note what they are told; afterwards the store has to hold what they were
//! told, no less and no more.

use std::collections::BTreeMap;
use std::time::Instant;

use latchkey::proto::v1::{CreateKeyRequest, Environment, ListKeysRequest};
use tokio::task::JoinSet;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use super::Operator;
use super::log::now;
use crate::crash::ledger::request_id;
use crate::support::Dice;

/// A key that somebody asked for.
#[derive(Debug, Clone)]
pub(super) struct Wish {
    name: String,
    request_id: String,
    pub(super) sent: Instant,
    pub(super) answered: Instant,
    pub(super) told: Told,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Told {
    Made,
    /// It was not made.
    Unavailable,
    /// It may have been.
    Unknown,
}

/// Makers, one at each node.
pub(super) struct Makers {
    working: JoinSet<Vec<Wish>>,
    end: tokio::sync::watch::Sender<bool>,
}

impl Makers {
    /// Makes keys of this account until it is ended.
    pub(super) fn begin(operators: &[Operator], account: &'static str, dice: &Dice) -> Self {
        let (end, ended) = tokio::sync::watch::channel(false);
        let mut working = JoinSet::new();
        for (node, operator) in operators.iter().enumerate() {
            let (mut operator, ended) = (operator.clone(), ended.clone());
            let mut dice = dice.apart(node as u64);
            working.spawn(async move {
                let mut wishes = Vec::new();
                while !*ended.borrow() {
                    let name = format!("wish-{node}-{}", wishes.len());
                    let request_id = request_id(&mut dice);
                    let sent = now();
                    let told = operator.wish(account, &name, &request_id).await;
                    wishes.push(Wish { name, request_id, sent, answered: now(), told });
                    tokio::time::sleep(std::time::Duration::from_millis(5)).await;
                }
                wishes
            });
        }
        Self { working, end }
    }

    /// All that was asked for.
    pub(super) async fn end(self) -> Vec<Wish> {
        self.end.send_replace(true);
        self.working.join_all().await.into_iter().flatten().collect()
    }
}

impl Operator {
    async fn wish(&mut self, account: &str, name: &str, request_id: &str) -> Told {
        let request = CreateKeyRequest {
            account_id: account.into(),
            display_name: name.into(),
            environment: Environment::Live.into(),
            scopes: vec!["memory:read".into()],
            request_id: request_id.into(),
            ..Default::default()
        };
        match self.keys.create_key(request).await {
            Ok(_) => Told::Made,
            Err(status) if status.code() == Code::AlreadyExists => Told::Made,
            Err(status) => Told::of(&status),
        }
    }

    /// Demands that the store holds each key once whose maker was told so, and none of which one was told that it was not
    /// made. What was not known is asked for again first. Returns how many those were, made before and made now.
    pub(super) async fn demand_all(&mut self, account: &str, wishes: &[Wish]) -> (usize, usize) {
        let found = self.count_names(account).await;
        let (mut before, mut now) = (0, 0);
        for wish in wishes {
            let times = found.get(&wish.name).copied().unwrap_or(0);
            let is_right = match wish.told {
                Told::Made => times == 1,
                Told::Unavailable => times == 0,
                Told::Unknown => times <= 1,
            };
            assert!(is_right, "{times} keys of {wish:?}");
            if wish.told == Told::Unknown {
                let again = self.wish(account, &wish.name, &wish.request_id).await;
                assert_eq!(again, Told::Made, "{wish:?}");
                before += times;
                now += 1 - times;
            }
        }
        let found = self.count_names(account).await;
        for wish in wishes.iter().filter(|wish| wish.told == Told::Unknown) {
            assert_eq!(found.get(&wish.name), Some(&1), "{wish:?}");
        }
        (before, now)
    }

    /// How many keys of an account have each name.
    pub(super) async fn count_names(&mut self, account: &str) -> BTreeMap<String, usize> {
        let mut found = BTreeMap::new();
        let mut page_token = String::new();
        loop {
            let request = ListKeysRequest {
                account_id: account.into(),
                page_size: 1_000,
                page_token,
                ..Default::default()
            };
            let page = self.keys.list_keys(request).await.unwrap().into_inner();
            for key in page.keys {
                *found.entry(key.display_name).or_default() += 1;
            }
            if page.next_page_token.is_empty() {
                return found;
            }
            page_token = page.next_page_token;
        }
    }
}

impl Told {
    /// What the word says of a change; an answer without one says nothing.
    fn of(status: &Status) -> Self {
        let details = status.get_error_details();
        match (status.code(), details.error_info().map(|info| info.reason.as_str())) {
            (Code::Unavailable, Some("STORE_UNAVAILABLE" | "NOT_READY")) => Self::Unavailable,
            (Code::Unknown, Some("OUTCOME_UNKNOWN")) => Self::Unknown,
            _ => panic!("{status:?}"),
        }
    }
}
