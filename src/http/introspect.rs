//! Token introspection (RFC 7662), for servers that know how to ask that way.

use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use axum::routing::post;
use axum::{Extension, Router};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::header::AUTHORIZATION;
use http::{HeaderMap, Method};
use zeroize::Zeroizing;

use super::Public;
use super::authorize::{bearer, read};
use crate::authorizer::{Credential, Question, Required};
use crate::decision::Decision;
use crate::error::Error;
use crate::metrics::Lookup;
use crate::scope::ScopePattern;
use crate::serve::Peer;

const ROUTE: &str = "/oauth2/introspect";

/// `/oauth2/introspect`.
pub(super) fn router() -> Router<Public> {
    Router::new().route(ROUTE, post(introspect))
}

async fn introspect(
    State(public): State<Public>,
    peer: Option<Extension<Peer>>,
    headers: HeaderMap,
    body: Body,
) -> Response {
    let peer = peer.map(|Extension(peer)| peer);
    let peer = peer.as_ref();
    let mut watch = public.observer.http_decision(ROUTE, &Method::POST, &headers, peer);
    let decided = public.look_at(&headers, peer, body, &mut watch.lookup).await;
    public.answer_service(watch, &decided, |decision| told(decision).to_string().into_bytes())
}

impl Public {
    async fn look_at(
        &self,
        headers: &HeaderMap,
        peer: Option<&Peer>,
        body: Body,
        lookup: &mut Lookup,
    ) -> Result<Decision, Error> {
        let password = basic_password(headers);
        let own = match &password {
            Some(password) => Credential::from_token(password),
            None => bearer(headers),
        };
        self.admit(own, peer).await?;
        let body = read(body).await?;
        let token = token_of(&body)?;
        // Where the token was used is not told, so one that is bound to networks is not active.
        let question = Question {
            credential: Credential::from_token(token.as_bytes()),
            required: Required::AuthenticateOnly,
            client_address: None,
            environment: None,
            cost: Some(0),
            min_revision: None,
        };
        self.authorizer.authorize_noting(&question, lookup).await
    }
}

/// The password of `Basic` (RFC 7617), where servers keep a client's secret; whatever the user is called.
fn basic_password(headers: &HeaderMap) -> Option<Zeroizing<Vec<u8>>> {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let (Some(only), None) = (values.next(), values.next()) else { return None };
    let (word, text) = only.as_bytes().split_at_checked(6)?;
    let decoded = word.eq_ignore_ascii_case(b"basic ").then(|| STANDARD.decode(text).ok())??;
    let decoded = Zeroizing::new(decoded);
    let colon = decoded.iter().position(|byte| *byte == b':')?;
    Some(Zeroizing::new(decoded[colon + 1..].to_vec()))
}

/// The `token` of a form, once. Other parameters are for others (RFC 7662 §2.1).
fn token_of(body: &[u8]) -> Result<Zeroizing<String>, Error> {
    let pairs = form_urlencoded::parse(body).filter(|(name, _)| name == "token");
    let mut tokens = pairs.map(|(_, value)| Zeroizing::new(value.into_owned()));
    match (tokens.next(), tokens.next()) {
        (Some(token), None) => Ok(token),
        (None, _) => Err(Error::invalid(
            "token",
            "is missing from the form (application/x-www-form-urlencoded)",
        )),
        (Some(_), Some(_)) => Err(Error::invalid("token", "stands in the form twice")),
    }
}

/// Why a token is not active is not told, as §2.2 has it.
fn told(decision: &Decision) -> serde_json::Value {
    let Some(who) = decision.identity.as_ref().filter(|_| decision.denial.is_none()) else {
        return serde_json::json!({ "active": false });
    };
    let scopes: Vec<_> = who.scopes.iter().map(ScopePattern::as_str).collect();
    let mut told = serde_json::json!({
        "active": true,
        "scope": scopes.join(" "),
        "client_id": who.key_id.to_string(),
        "sub": who.account.to_string(),
        "token_type": "Bearer",
        "jti": who.key_id.to_string(),
    });
    if let Some(time) = who.expire_time {
        told["exp"] = (time.micros() / 1_000_000).into();
    }
    told
}
