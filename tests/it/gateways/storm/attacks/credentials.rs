//! Credentials that are almost right, too many, or where none is looked for.

use super::super::cast::{Actor, Who};
use super::super::shot::Draft;

pub(super) fn almost_a_key(draft: &mut Draft<'_>) {
    let actor = draft.actor();
    let token = almost(draft, actor);
    if draft.dice.is_one_of(1, 2) {
        draft.credential("x-api-key", token, Who::Nobody);
    } else {
        draft.credential("authorization", [b"Bearer ", &token[..]].concat(), Who::Nobody);
    }
}

/// A token with one thing wrong.
fn almost(draft: &mut Draft<'_>, actor: &Actor) -> Vec<u8> {
    let mut token = actor.token.clone().into_bytes();
    let random = "hm_live_".len() as u64;
    let at = usize::try_from(random + draft.dice.below(token.len() as u64 - random)).unwrap();
    let other = draft.one(b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz");
    match draft.dice.below(12) {
        0..3 => token[at] = if token[at] == other { b'-' } else { other },
        3 => token[at] = draft.one(b"\0\t\x7f -_.%,;=\xff"),
        4 => drop(token.remove(at)),
        5 => token.insert(at, other),
        6 => token.truncate(at),
        7 => token.extend_from_slice(draft.one(&[&b"="[..], b",", b";a", b"%00", b"\x01", b"'--"])),
        8 => {
            let word = if actor.who == Who::Test { b"live" } else { b"test" };
            token[3..7].copy_from_slice(word);
        }
        9 => token.make_ascii_uppercase(),
        10 => token[..2].make_ascii_uppercase(),
        _ => token = [b"\"", &token[..], b"\""].concat(),
    }
    token
}

pub(super) fn almost_a_scheme(draft: &mut Draft<'_>) {
    let token = &draft.actor().token;
    let value = match draft.dice.below(14) {
        0 => token.clone(),
        1 => format!("Bearer  {token}"),
        2 => format!("Bearer\t{token}"),
        3 => format!("Bearer={token}"),
        4 => format!("Bearer: {token}"),
        5 => format!("Token {token}"),
        6 => format!("Basic {token}"),
        7 => format!("Bearer \"{token}\""),
        8 => format!("Bearer {token} {token}"),
        9 => format!("Bearer{token}"),
        10 => format!("Bearer {token},"),
        11 => format!("Bearer Bearer {token}"),
        12 => "Bearer".to_owned(),
        _ => format!("Negotiate, Bearer {token}"),
    };
    draft.credential("authorization", value, Who::Nobody);
}

/// Two, of which at least one is good; or one that comes to two.
pub(super) fn several_credentials(draft: &mut Draft<'_>) {
    let (good, other) = (draft.guest(), draft.actor());
    let (token, bearer) = (good.token.clone(), format!("Bearer {}", good.token));
    match draft.dice.below(9) {
        0 => {
            draft.bring(good);
            draft.bring(other);
        }
        1 => {
            draft.bring(other);
            draft.bring(good);
        }
        2 => {
            draft.credential("authorization", &bearer, good.who);
            draft.credential("x-api-key", &token, good.who);
        }
        3 => draft.credential("authorization", format!("{bearer}, {bearer}"), Who::Nobody),
        4 => draft.credential("x-api-key", format!("{token},{}", other.token), Who::Nobody),
        5 => {
            draft.credential("x-api-key", "", Who::Nobody);
            draft.bring(good);
        }
        6 => {
            draft.bring(good);
            draft.credential("authorization", "Basic eDp4", Who::Nobody);
        }
        7 => {
            draft.credential("x-api-key", &token, good.who);
            draft.credential("x-api-key", &token, good.who);
        }
        _ => {
            let wrong = almost(draft, good);
            draft.credential("x-api-key", wrong, Who::Nobody);
            draft.bring(good);
        }
    }
}

/// Where no credential is looked for; sometimes beside one.
pub(super) fn credentials_elsewhere(draft: &mut Draft<'_>) {
    let token = draft.cast.of(Who::Admin).token.clone();
    let bearer = format!("Bearer {token}");
    match draft.dice.below(8) {
        0 => draft.field("cookie", format!("x-api-key={token}; authorization={token}")),
        1 => draft.field("proxy-authorization", &bearer),
        2 => {
            let name = draft.one(&["x_api_key", "x.api.key", "x-api-key2", "api-key", "apikey"]);
            draft.field(name, &token);
        }
        3 => {
            let name = draft.one(&[
                "authorisation",
                "authorization2",
                "x-authorization",
                "www-authenticate",
            ]);
            draft.field(name, &bearer);
        }
        4 => draft.field("x-forwarded-authorization", &bearer),
        _ => {
            let name = draft.one(&["key", "api_key", "access_token", "x-api-key", "authorization"]);
            let mark = draft.one(&["?", "?a=b&", "?;", "#"]);
            draft.target.extend(format!("{mark}{name}={token}").bytes());
        }
    }
    if draft.dice.is_one_of(1, 2) {
        let actor = draft.actor();
        draft.bring(actor);
    }
}
