//! A flood of tokens that are right in form and nobody's, and what a node answers meanwhile: about keys that are asked for
//! all the time, and about a few that nobody has asked for yet.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use latchkey::proto::v1::DecisionReason;
use latchkey::token::Prefix;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tonic::transport::Channel;

use super::log::{Client, Question, Said, now};
use super::many_keys::nobodys;
use crate::support::Server;

/// From so many connections it comes.
const SOURCES: u32 = 4;
const TICK: Duration = Duration::from_millis(5);
/// For how long whoever is told to try again waits, and how often he asks.
const PAUSE: Duration = Duration::from_millis(100);
const TRIES: usize = 10;

/// A flood that goes on until it is ended.
pub(super) struct Flood {
    working: JoinSet<()>,
    answers: mpsc::UnboundedReceiver<Answer>,
}

/// A token, and what was said of it.
pub(super) struct Answer {
    pub(super) token: Arc<str>,
    pub(super) said: Said,
}

impl Flood {
    pub(super) async fn begin(node: &Server, per_second: u32) -> Self {
        let (tell, answers) = mpsc::unbounded_channel();
        let mut working = JoinSet::new();
        for _ in 0..SOURCES {
            let client = Client::of(0, &node.channel().await);
            working.spawn(pour(client, per_second / SOURCES, tell.clone()));
        }
        Self { working, answers }
    }

    /// How many were answered, or waited for in vain.
    pub(super) fn answered(&self) -> usize {
        self.answers.len()
    }

    /// Ends it; all that was said.
    pub(super) async fn end(mut self) -> Vec<Answer> {
        self.working.shutdown().await;
        let mut answers = Vec::new();
        // Those under way have answers soon, and then nobody notes any more.
        while let Some(answer) = self.answers.recv().await {
            answers.push(answer);
        }
        answers
    }
}

/// Asks whether what was asked before was answered or not, each time for another token.
async fn pour(client: Client, per_second: u32, note: mpsc::UnboundedSender<Answer>) {
    let prefix = Prefix::parse("hm").unwrap();
    let mut pace = tokio::time::interval(TICK);
    let mut due = Duration::ZERO;
    loop {
        pace.tick().await;
        due += TICK * per_second;
        while due >= Duration::from_secs(1) {
            due -= Duration::from_secs(1);
            let (mut client, note, question) = (client.clone(), note.clone(), nobodys(&prefix));
            tokio::spawn(async move {
                let said = client.ask(0, &question).await.said;
                let _ = note.send(Answer { token: question.token, said });
            });
        }
    }
}

/// Demands that nobody was let in, nor told anything that is not so; how often what was said. Who gives up often is cut off.
pub(super) fn demand_refused(answers: &[Answer]) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for Answer { said, .. } in answers {
        let is_right = matches!(
            said,
            Said::Denied(DecisionReason::UnknownKey) | Said::Failed(_) | Said::Nothing
        );
        assert!(is_right, "of a token that nobody has: {said:?}");
        *counts.entry(format!("{said:?}")).or_default() += 1;
    }
    counts
}

/// What became of a key that nobody had asked for before.
pub(super) struct Cold {
    pub(super) tries: usize,
    pub(super) said: Said,
    pub(super) took: Duration,
}

/// Asks for one after the other at this pace; whoever is told to try again does.
pub(super) async fn ask_cold(
    channel: &Channel,
    questions: Vec<Question>,
    per_second: u32,
) -> Vec<Cold> {
    let mut pace = tokio::time::interval(Duration::from_secs(1) / per_second);
    let mut asked = Vec::new();
    for question in questions {
        pace.tick().await;
        asked.push(tokio::spawn(ask_until_told(Client::of(0, channel), question)));
    }
    join_all(asked).await.into_iter().map(Result::unwrap).collect()
}

async fn ask_until_told(mut client: Client, question: Question) -> Cold {
    let began = now();
    let mut tries = 0;
    loop {
        tries += 1;
        let check = client.ask(0, &question).await;
        let is_told = !matches!(check.said, Said::Failed(_) | Said::Nothing);
        if is_told || tries >= TRIES {
            return Cold { tries, said: check.said, took: check.answered - began };
        }
        tokio::time::sleep(PAUSE).await;
    }
}
