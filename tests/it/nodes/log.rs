//! Checks as clients see them: when each was sent, when it was answered, and with what.

use std::sync::{Arc, RwLock};
use std::time::{Duration, Instant, SystemTime};

use latchkey::proto::v1::authorization_service_client::AuthorizationServiceClient;
use latchkey::proto::v1::{AuthorizeRequest, DecisionReason};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tonic::Code;
use tonic::transport::Channel;

use super::{AGAIN_AFTER, DONE_IN};

/// How long a client waits for an answer, as all examples do.
pub(super) const PATIENCE: Duration = Duration::from_millis(250);

#[expect(clippy::disallowed_methods, reason = "clients note when they were answered")]
pub(super) fn now() -> Instant {
    Instant::now()
}

/// What receipts count by.
#[expect(
    clippy::disallowed_methods,
    reason = "clients compare what they were told with their clock"
)]
pub(super) fn wall() -> SystemTime {
    SystemTime::now()
}

/// What a client asks.
#[derive(Debug, Clone)]
pub(super) struct Question {
    pub(super) token: Arc<str>,
    pub(super) scope: Arc<str>,
}

/// A check, as its client notes it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Check {
    /// Which of the nodes was asked.
    pub(super) node: usize,
    /// Which of the questions.
    pub(super) question: usize,
    pub(super) sent: Instant,
    pub(super) answered: Instant,
    pub(super) said: Said,
    /// Whether it was said by what may be too old, allowed or not.
    pub(super) is_marked: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Said {
    Allowed,
    /// Allowed, by what may be too old.
    Stale,
    Denied(DecisionReason),
    Failed(Code),
    /// Nothing while the client waited.
    Nothing,
}

impl Said {
    pub(super) const fn is_allow(self) -> bool {
        matches!(self, Self::Allowed | Self::Stale)
    }
}

/// A client of one node.
#[derive(Clone)]
pub(super) struct Client {
    node: usize,
    patience: Duration,
    decisions: AuthorizationServiceClient<Channel>,
}

impl Client {
    pub(super) fn of(node: usize, channel: &Channel) -> Self {
        let decisions = AuthorizationServiceClient::new(channel.clone());
        Self { node, patience: PATIENCE, decisions }
    }

    /// One that waits for so long.
    pub(super) fn waiting(self, patience: Duration) -> Self {
        Self { patience, ..self }
    }

    pub(super) async fn ask(&mut self, question: usize, asked: &Question) -> Check {
        let request = AuthorizeRequest {
            token: asked.token.as_ref().to_owned(),
            required_scope: asked.scope.as_ref().to_owned(),
            ..Default::default()
        };
        let sent = now();
        let mut is_marked = false;
        let said =
            match tokio::time::timeout(self.patience, self.decisions.authorize(request)).await {
                Err(_) => Said::Nothing,
                Ok(Err(status)) => Said::Failed(status.code()),
                Ok(Ok(answer)) => {
                    let answer = answer.into_inner();
                    is_marked = answer.stale;
                    match answer.allowed {
                        true if answer.stale => Said::Stale,
                        true => Said::Allowed,
                        false => Said::Denied(answer.reason()),
                    }
                }
            };
        let answered = now();
        // On a busy machine an answer may be there when a client looks that has waited for too long.
        let is_late = answered - sent > self.patience;
        let said = if is_late { Said::Nothing } else { said };
        Check { node: self.node, question, sent, answered, said, is_marked: is_marked && !is_late }
    }

    /// Asks until this is said; the last check.
    pub(super) async fn until(
        &mut self,
        question: usize,
        asked: &Question,
        is_it: impl Fn(Said) -> bool,
    ) -> Check {
        let said = async {
            loop {
                let check = self.ask(question, asked).await;
                if is_it(check.said) {
                    return check;
                }
                tokio::time::sleep(AGAIN_AFTER).await;
            }
        };
        tokio::time::timeout(DONE_IN, said).await.expect("it is said in the end")
    }

    pub(super) async fn until_allowed(&mut self, question: usize, asked: &Question) {
        self.until(question, asked, |said| said == Said::Allowed).await;
    }
}

/// Checks at a steady pace, on all nodes, of all questions in turn, until it is ended.
pub(super) struct Load {
    working: JoinSet<()>,
    checks: mpsc::UnboundedReceiver<Check>,
}

impl Load {
    /// Each node is asked its share, whether it has answered what it was asked before or not.
    pub(super) fn begin(
        nodes: &[Channel],
        questions: &Arc<RwLock<Vec<Question>>>,
        per_second: u32,
    ) -> Self {
        let (note, checks) = mpsc::unbounded_channel();
        let mut working = JoinSet::new();
        let share = Duration::from_secs(nodes.len() as u64).div_f64(f64::from(per_second));
        for (node, channel) in nodes.iter().enumerate() {
            let (client, questions, note) =
                (Client::of(node, channel), Arc::clone(questions), note.clone());
            working.spawn(async move {
                let mut pace = tokio::time::interval(share);
                for number in node.. {
                    pace.tick().await;
                    let (mut client, note) = (client.clone(), note.clone());
                    let (number, asked) = {
                        let questions = questions.read().unwrap();
                        let number = number * 7_919 % questions.len();
                        (number, questions[number].clone())
                    };
                    tokio::spawn(async move {
                        let check = client.ask(number, &asked).await;
                        let _ = note.send(check);
                    });
                }
            });
        }
        Self { working, checks }
    }

    /// Ends it; all that it noted.
    pub(super) async fn end(mut self) -> Vec<Check> {
        self.working.shutdown().await;
        let mut checks = Vec::new();
        // Those under way have answers soon, and then nobody notes any more.
        while let Some(check) = self.checks.recv().await {
            checks.push(check);
        }
        checks
    }
}
