//! Whether what got through had a right to. This knows keys, places and what a request brought, and nothing of how a gateway
//! or latchkey came to pass it.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Mutex;

use super::attacks::{self, PLAIN};
use super::cast::{By, Cast, Who};
use super::places::{Place, places};
use super::shot::{Shot, TAG};
use super::tools;
use super::upstream::Hit;

const IDENTITY: [&str; 6] = [
    "x-latchkey-account-id",
    "x-latchkey-key-id",
    "x-latchkey-environment",
    "x-latchkey-scopes",
    "x-latchkey-plan",
    "x-latchkey-billable",
];
/// So many are kept.
const WRONG_MAX: usize = 50;

pub(super) struct Judge {
    seed: u64,
    by: By,
    cast: Cast,
    /// The one kind of request that there is, if not all.
    only: Option<&'static str>,
    seen: Mutex<Seen>,
}

#[derive(Default)]
struct Seen {
    hits: u64,
    /// What got through rightly, by kind.
    passed: BTreeMap<&'static str, u64>,
    wrong: Vec<Wrong>,
    /// In the place of what the numbers say: a request that is made smaller.
    instead: Option<Shot>,
}

/// What got through without a right.
#[derive(Debug, Clone)]
pub(super) struct Wrong {
    pub(super) number: u64,
    pub(super) why: &'static str,
    pub(super) hit: String,
}

impl Judge {
    pub(super) fn new(seed: u64, by: By, cast: Cast, only: Option<&'static str>) -> Self {
        Self { seed, by, cast, only, seen: Mutex::default() }
    }

    pub(super) fn shot(&self, number: u64) -> Shot {
        attacks::shot(self.seed, number, &self.cast, self.only)
    }

    /// Whether it is sure that the request must be let through.
    pub(super) fn is_good(&self, shot: &Shot) -> bool {
        if shot.kind != PLAIN {
            return false;
        }
        let (plain, _) = places(self.by, b"GET", &shot.target);
        plain == Place::Open || shot.brings(0).is_some_and(|who| who.may(self.by, plain))
    }

    pub(super) fn cast(&self) -> &Cast {
        &self.cast
    }

    pub(super) fn judge(&self, hit: &Hit) {
        let (number, message) = tag(hit).unwrap_or((u64::MAX, 0));
        let instead = self.seen.lock().unwrap().instead.clone();
        let shot = instead.unwrap_or_else(|| self.shot(number));
        let why = if number == u64::MAX {
            Some("nobody sent such a request")
        } else {
            self.why_wrong(self.by, &shot, message, hit)
        };
        let mut seen = self.seen.lock().unwrap();
        seen.hits += 1;
        match why {
            None => *seen.passed.entry(shot.kind).or_default() += 1,
            Some(why) if seen.wrong.len() < WRONG_MAX => {
                seen.wrong.push(Wrong { number, why, hit: shown(hit) });
            }
            Some(_) => {}
        }
    }

    pub(super) fn passed(&self) -> BTreeMap<&'static str, u64> {
        self.seen.lock().unwrap().passed.clone()
    }

    /// How many requests got through, rightly or not.
    pub(super) fn hits(&self) -> u64 {
        self.seen.lock().unwrap().hits
    }

    pub(super) fn wrong(&self) -> Vec<Wrong> {
        self.seen.lock().unwrap().wrong.clone()
    }

    /// Judges by this request from now on; tells what is wrong with it when it is asked for.
    pub(super) fn instead(&self, shot: Option<Shot>) {
        let mut seen = self.seen.lock().unwrap();
        seen.instead = shot;
        seen.wrong.clear();
    }

    /// What is wrong with what the upstream saw of a request, if anything is.
    pub(super) fn why_wrong(
        &self,
        by: By,
        shot: &Shot,
        message: u8,
        hit: &Hit,
    ) -> Option<&'static str> {
        if let Some(odd) = hit.odd {
            return Some(odd);
        }
        let who = shot.brings(message);
        let (plain, readings) = match by {
            By::Rules if hit.target == b"/mcp" => tools::places(&hit.body),
            _ => places(by, &hit.method, &hit.target),
        };
        if plain == Place::Nothing {
            return Some("nothing is there, and the upstream is asked for it");
        }
        let may = |place: Place| match place {
            Place::Nothing | Place::Open => true,
            Place::Read | Place::Admin | Place::Known => who.is_some_and(|who| who.may(by, place)),
        };
        if !may(plain) {
            return Some("it is let to where it has no right");
        }
        if !readings.into_iter().all(may) {
            return Some("some servers take it for what it has no right to");
        }
        if ["x-original-url", "x-rewrite-url"]
            .iter()
            .any(|it| hit.alike(it.as_bytes()).next().is_some())
        {
            return Some("some servers serve what a header of it says");
        }
        self.wrong_identity(plain, who, hit).or_else(|| self.wrong_secret(shot, hit))
    }

    fn wrong_identity(&self, plain: Place, who: Option<Who>, hit: &Hit) -> Option<&'static str> {
        for (nth, name) in IDENTITY.into_iter().enumerate() {
            let told: Vec<_> = hit.alike(name.as_bytes()).collect();
            let expected = match who {
                Some(who) if plain != Place::Open => {
                    vec![self.cast.of(who).identity[nth].as_bytes()]
                }
                _ => vec![],
            };
            if told != expected {
                return Some("the upstream is told another identity");
            }
        }
        let is_ours = |(name, _): &&(Vec<u8>, Vec<u8>)| {
            String::from_utf8_lossy(name).replace(['_', '.'], "-").starts_with("x-latchkey-")
        };
        let count = hit.fields.iter().filter(is_ours).count();
        (count > IDENTITY.len()).then_some("the upstream is told one thing more of an identity")
    }

    fn wrong_secret(&self, shot: &Shot, hit: &Hit) -> Option<&'static str> {
        let is_told = |token: &str| {
            // One that runs into something else is no word, and so no key.
            let is_word = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'_';
            let holds = |bytes: &[u8]| {
                bytes.split(|byte| !is_word(byte)).any(|word| word == token.as_bytes())
            };
            holds(&hit.target) || hit.fields.iter().any(|(name, value)| holds(name) || holds(value))
        };
        let told = self
            .cast
            .actors()
            .iter()
            .any(|actor| is_told(&actor.token) && !shot.mentions(&actor.token));
        told.then_some("the upstream is told the secret")
    }
}

/// Which request it is, and whether it is what came after it.
fn tag(hit: &Hit) -> Option<(u64, u8)> {
    let mut tags = hit.fields.iter().filter(|(name, _)| name == TAG.as_bytes());
    let (Some((_, tag)), None) = (tags.next(), tags.next()) else { return None };
    // A folded line may have been put behind it.
    let digits = tag.iter().take_while(|byte| byte.is_ascii_digit() || **byte == b'.').count();
    let tag = std::str::from_utf8(&tag[..digits]).ok()?;
    let (number, message) = tag.split_once('.').unwrap_or((tag, "0"));
    Some((number.parse().ok()?, message.parse().ok()?))
}

fn shown(hit: &Hit) -> String {
    let mut shown = format!("{} {}\n", hit.method.escape_ascii(), hit.target.escape_ascii());
    for (name, value) in &hit.fields {
        writeln!(shown, "        {}: {}", name.escape_ascii(), value.escape_ascii()).unwrap();
    }
    shown.chars().take(2_000).collect()
}
