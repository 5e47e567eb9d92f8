//! What is tried to get through a gateway without a right. Each kind of attack makes one request from dice, and the same one
//! from the same dice.

use super::cast::{Cast, Who};
use super::shot::{Draft, Over, Shot};
use crate::support::Dice;

mod credentials;
mod headers;
mod http1;
mod http2;
mod targets;
mod tools;

/// The kind that is no attack: all of it that is right has to pass.
pub(super) const PLAIN: &str = "nothing odd";

/// Those that a gateway without its guards is sure to be found by.
pub(super) const PATHS: &str = "paths with two readings";
pub(super) const IDENTITY: &str = "identity made up";
/// The kind for a server of tools.
pub(super) const TOOLS: &str = "messages to tools";

/// A kind of attack, by the version of HTTP if only one has it.
struct Kind {
    name: &'static str,
    over: Option<Over>,
    make: fn(&mut Draft<'_>),
}

const fn of_both(name: &'static str, make: fn(&mut Draft<'_>)) -> Kind {
    Kind { name, over: None, make }
}

const fn of_one(name: &'static str, over: Over, make: fn(&mut Draft<'_>)) -> Kind {
    Kind { name, over: Some(over), make }
}

const KINDS: [Kind; 26] = [
    of_both(PLAIN, plain),
    of_both("almost a key", credentials::almost_a_key),
    of_both("almost a scheme", credentials::almost_a_scheme),
    of_both("several credentials", credentials::several_credentials),
    of_both("credentials elsewhere", credentials::credentials_elsewhere),
    of_both(PATHS, targets::paths),
    of_both("targets that are no path", targets::targets),
    of_both(IDENTITY, headers::identity_made_up),
    of_both("headers for the next hop alone", headers::nominated),
    of_both("headers of proxies", headers::headers_of_proxies),
    of_both("large headers", headers::large_headers),
    of_both("many headers", headers::many_headers),
    of_both("bytes that are no text", headers::no_text),
    of_both("methods", targets::methods),
    of_both("hosts", targets::hosts),
    of_both("bodies", headers::bodies),
    of_both("trailers", headers::trailers),
    of_both(TOOLS, tools::messages),
    of_one("HTTP/1: CONNECT and upgrades", Over::Http1, http1::upgrades),
    of_one("HTTP/1: folded headers", Over::Http1, http1::folded),
    of_one("HTTP/1: two lengths", Over::Http1, http1::two_lengths),
    of_one("HTTP/1: lines and versions", Over::Http1, http1::lines),
    of_one("HTTP/1: one after the other", Over::Http1, http1::one_after_the_other),
    of_one("HTTP/2: pseudo headers", Over::Http2, http2::pseudo_headers),
    of_one("HTTP/2: lines of HTTP/1 in it", Over::Http2, http2::injected),
    of_one("HTTP/2: headers of connections", Over::Http2, http2::of_connections),
];

/// The request of this number, which follows from the seed and the number alone; perhaps of this kind alone.
pub(super) fn shot(seed: u64, number: u64, cast: &Cast, only: Option<&str>) -> Shot {
    let mut dice = Dice::new(seed).apart(number);
    // One that is no attack comes as often as three others.
    let at = usize::try_from(dice.below(KINDS.len() as u64 + 2)).unwrap().saturating_sub(2);
    let kind = KINDS.iter().find(|kind| Some(kind.name) == only).unwrap_or(&KINDS[at]);
    draft(kind, number, dice, cast).finished(kind.name)
}

/// The same before it is put into bytes, of any kind or of one that is no attack.
pub(super) fn draft_of_any(number: u64, mut dice: Dice, cast: &Cast) -> (&'static str, Draft<'_>) {
    let kind = dice.clone().pick(&KINDS);
    dice.draw();
    (kind.name, draft(kind, number, dice, cast))
}

pub(super) fn plain_draft(number: u64, dice: Dice, cast: &Cast) -> (&'static str, Draft<'_>) {
    (PLAIN, draft(&KINDS[0], number, dice, cast))
}

fn draft<'a>(kind: &Kind, number: u64, mut dice: Dice, cast: &'a Cast) -> Draft<'a> {
    let either = if dice.is_one_of(1, 3) { Over::Http2 } else { Over::Http1 };
    let mut draft = Draft::new(number, dice, cast, kind.over.unwrap_or(either));
    draft.target = good_target(&mut draft).into();
    (kind.make)(&mut draft);
    draft
}

fn good_target(draft: &mut Draft<'_>) -> &'static str {
    draft.one(&[
        "/items/7",
        "/items/7?all=1",
        "/items/a%20b",
        "/items/",
        "/admin/7",
        "/admin/7",
        "/me",
        "/health",
        "/elsewhere",
    ])
}

fn plain(draft: &mut Draft<'_>) {
    if draft.dice.is_one_of(5, 6) {
        let actor = draft.actor();
        draft.bring(actor);
    }
    draft.field("accept", "*/*");
}

/// Mostly one that may read, and no more.
fn with_a_key_or_without(draft: &mut Draft<'_>) {
    match draft.dice.below(8) {
        0 => {}
        1 => {
            let actor = draft.actor();
            draft.bring(actor);
        }
        2 => draft.bring(draft.cast.of(Who::Admin)),
        _ => draft.bring(draft.cast.of(Who::Reader)),
    }
}
