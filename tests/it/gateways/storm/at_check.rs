//! The same storm straight at `Check`, as if a gateway had no guard of its own: it passes on whatever comes, and then does
//! what it is told. What the upstream would see is judged as if it had seen it.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use latchkey::proto::vendored::envoy::service::auth::v3::CheckResponse;
use latchkey::proto::vendored::envoy::service::auth::v3::check_response::HttpResponse;
use prost::Message as _;
use tokio::task::JoinSet;
use tonic::transport::Channel;

use self::call::ask;
use self::question::{Question, question};
use super::cast::{Cast, RULES, Who};
use super::judge::Judge;
use super::{CLIENTS, Statuses, told, with_policy};
use crate::support::{Server, say};

mod call;
mod message;
mod question;

const SHORT: u64 = 6_000;
/// How many causes are told.
const CAUSES_MAX: usize = 12;

#[tokio::test(flavor = "multi_thread")]
async fn nothing_gets_past_check_without_the_key_that_may() {
    let requests = told("LATCHKEY_STORM_REQUESTS", SHORT);
    let seed = told("LATCHKEY_STORM_SEED", 1);
    let server = with_policy(RULES).await;
    let judge = Judge::new(seed, super::By::Rules, Cast::gather(&server).await, None);
    let storm = Arc::new(Storm { judge, seed, seen: Mutex::default() });
    let statuses = storm.rage(&server, requests).await;
    let Seen { passed, wrong } = std::mem::take(&mut *storm.seen.lock().unwrap());
    say(format!("straight at Check, seed {seed}\n{}", super::table(&statuses, &passed)));
    let wrong: Vec<_> = wrong.into_values().take(CAUSES_MAX).collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

struct Storm {
    judge: Judge,
    seed: u64,
    seen: Mutex<Seen>,
}

#[derive(Default)]
struct Seen {
    passed: BTreeMap<&'static str, u64>,
    /// The first of each cause.
    wrong: BTreeMap<(String, &'static str), String>,
}

/// What came of one question.
struct Answered {
    kind: &'static str,
    status: u16,
    /// Whether it passes, and should not.
    wrong: Option<String>,
}

impl Storm {
    async fn rage(self: &Arc<Self>, server: &Server, requests: u64) -> Statuses {
        let next = Arc::new(AtomicU64::new(0));
        let mut clients = JoinSet::new();
        for _ in 0..CLIENTS {
            let (storm, next, mut channel) =
                (Arc::clone(self), Arc::clone(&next), server.channel().await);
            clients.spawn(async move {
                let mut statuses = Statuses::default();
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= requests {
                        return statuses;
                    }
                    let (kind, status) = storm.send(&mut channel, number).await;
                    *statuses.entry(kind).or_default().entry(status).or_default() += 1;
                }
            });
        }
        super::sum(clients.join_all().await)
    }

    async fn send(&self, channel: &mut Channel, number: u64) -> (&'static str, u16) {
        let mut question = question(self.seed, number, self.judge.cast());
        let Answered { kind, status, wrong } = self.ask(channel, &question).await;
        let Some(why) = wrong else {
            if status == 200 {
                *self.seen.lock().unwrap().passed.entry(kind).or_default() += 1;
            }
            return (kind, status);
        };
        if self.seen.lock().unwrap().wrong.contains_key(&(why.clone(), kind)) {
            return (kind, status);
        }
        // As small as it can be.
        let mut at = 0;
        while let Some(less) = question.without(at) {
            let is_still = self.ask(channel, &less).await.wrong.as_ref() == Some(&why);
            if is_still { question = less } else { at += 1 }
        }
        let text = format!("number {number} ({kind}): {why}\n{}", question.shown());
        self.seen.lock().unwrap().wrong.insert((why, kind), text);
        (kind, status)
    }

    async fn ask(&self, channel: &mut Channel, question: &Question) -> Answered {
        let kind = question.shot.kind;
        let response = match ask(channel, question.bytes()).await {
            Ok(response) => response,
            Err(status) => {
                let wrong = Some(format!("the answer is an error of gRPC: {status}"));
                return Answered { kind, status: 0, wrong };
            }
        };
        let (status, wrong) = match self.read(question, response) {
            Ok(status) => (status, None),
            Err((status, why)) => (status, Some(why)),
        };
        Answered { kind, status, wrong }
    }

    /// The status of an answer; or what is wrong with it.
    fn read(&self, question: &Question, response: CheckResponse) -> Result<u16, (u16, String)> {
        let code = response.status.as_ref().map(|status| status.code);
        match response.http_response {
            Some(HttpResponse::OkResponse(ok)) if code == Some(0) => {
                let wrong = if question.is_damaged() {
                    self.wrong_of_damaged(question, &ok)
                } else {
                    let hit = question.seen_by_upstream(ok);
                    self.judge.why_wrong(question.by, &question.shot, 0, &hit).map(str::to_owned)
                };
                wrong.map_or(Ok(200), |why| Err((200, why)))
            }
            Some(HttpResponse::DeniedResponse(denied)) if code != Some(0) && code.is_some() => {
                let status = denied.status.map_or(403, |status| status.code);
                let status = u16::try_from(status).unwrap_or_default();
                let is_bad = !matches!(status, 401 | 403 | 500)
                    || (status == 500 && !question.is_mistaken && !question.is_damaged());
                let secret = format!("{:?} {}", denied.headers, denied.body);
                let is_told = |token: &str| secret.contains(token);
                if is_bad {
                    Err((status, "it is refused in another way than by 401 or 403".to_owned()))
                } else if self.judge.cast().actors().iter().any(|actor| is_told(&actor.token)) {
                    Err((status, "the client is told a secret".to_owned()))
                } else if question.is_good {
                    Err((status, "it is good, and refused".to_owned()))
                } else {
                    Ok(status)
                }
            }
            _ => Err((0, "it is neither an allow nor a denial".to_owned())),
        }
    }

    /// Of a message that was damaged it is not known what it asks; but a whole key of its own has to be in it, or it asks
    /// for what is public, as nobody.
    fn wrong_of_damaged(
        &self,
        question: &Question,
        ok: &latchkey::proto::vendored::envoy::service::auth::v3::OkHttpResponse,
    ) -> Option<String> {
        let bytes = question.bytes();
        let key_id = ok
            .headers
            .iter()
            .filter_map(|it| it.header.as_ref())
            .find(|header| header.key == "x-latchkey-key-id");
        let Some(key_id) = key_id else {
            let names_public = bytes.windows(7).any(|part| part == b"/health");
            return (!names_public).then(|| "damaged, it passes as nobody's".to_owned());
        };
        let actors = self.judge.cast().actors();
        let actor = actors.iter().find(|actor| actor.identity[1] == key_id.value)?;
        let may = [Who::Reader, Who::Writer, Who::Admin, Who::Test, Who::Foreign, Who::Elsewhere];
        let is_there = bytes.windows(actor.token.len()).any(|part| part == actor.token.as_bytes());
        let is_right = is_there && may.contains(&actor.who);
        (!is_right).then(|| "damaged, it passes as somebody's who did not ask".to_owned())
    }
}

impl Question {
    fn shown(&self) -> String {
        let message = if self.is_damaged() {
            format!("    {}\n", self.bytes().escape_ascii())
        } else {
            format!("{:?}", self.check)
        };
        format!("{}  of {}", message.chars().take(4_000).collect::<String>(), self.shot.shown())
    }

    fn is_damaged(&self) -> bool {
        self.damaged.is_some()
    }

    fn bytes(&self) -> Vec<u8> {
        self.damaged.clone().unwrap_or_else(|| self.check.encode_to_vec())
    }
}
