//! Watches calls from their beginning to their end: counts each, logs each at debug, traces those that
//! are sampled. What is dropped before its end was cancelled.

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, Method};

use super::trace::{Span, Tracer};
use crate::decision::{Decision, Identity};
use crate::error::Reason;
use crate::metrics::{Lookup, Metrics, Outcome, Stopwatch, Surface, Timing};
use crate::policy::target::Ambiguity;
use crate::serve::{Bound, Listen, Origin, Peer};

const AUTHORIZE: &str = "latchkey.v1.AuthorizationService/Authorize";
const CHECK: &str = "envoy.service.auth.v3.Authorization/Check";

/// Watches calls; a cheap handle.
#[derive(Clone)]
pub struct Observer {
    metrics: Arc<Metrics>,
    /// `None` when traces are not exported: then headers are not looked at.
    tracer: Option<Arc<Tracer>>,
    /// Where we listen, and as what.
    server: Option<Listen>,
    scheme: &'static str,
}

impl Observer {
    /// Counts into these metrics, and makes spans by this tracer.
    #[must_use]
    pub fn new(metrics: Arc<Metrics>, tracer: Option<Arc<Tracer>>) -> Self {
        Self { metrics, tracer, server: None, scheme: "http" }
    }

    /// The same, for calls to this listener.
    #[must_use]
    pub fn at(self, bound: Option<&Bound>) -> Self {
        let server = bound.map(|bound| bound.address().clone());
        let is_tls = bound.is_some_and(|bound| bound.tls().is_some());
        Self { server, scheme: if is_tls { "https" } else { "http" }, ..self }
    }

    /// A question was asked by gRPC.
    #[must_use]
    pub fn grpc_decision(&self, headers: &HeaderMap, peer: Option<&Peer>) -> DecisionWatch<'_> {
        let watch = Stopwatch::start();
        let span = self.span(headers, AUTHORIZE, peer).map(|span| of_grpc(span, AUTHORIZE));
        self.decision(Surface::Grpc, watch, span)
    }

    /// A gateway asked by gRPC.
    #[must_use]
    pub fn check(&self, headers: &HeaderMap, peer: Option<&Peer>) -> DecisionWatch<'_> {
        let watch = Stopwatch::start();
        let span = self.span(headers, CHECK, peer).map(|span| of_grpc(span, CHECK));
        self.decision(Surface::ExtAuthz, watch, span)
    }

    /// A question was asked by HTTP: on this route, by this method.
    #[must_use]
    pub fn http_decision(
        &self,
        route: &'static str,
        method: &Method,
        headers: &HeaderMap,
        peer: Option<&Peer>,
    ) -> DecisionWatch<'_> {
        let watch = Stopwatch::start();
        let method = known_method(method);
        let shown = if method == "_OTHER" { "HTTP" } else { method };
        let span = self
            .tracer
            .as_ref()
            .and_then(|_| self.span(headers, &format!("{shown} {route}"), peer))
            .map(|span| of_http(span, method, route, self.scheme));
        self.decision(Surface::Http, watch, span)
    }

    fn decision(
        &self,
        surface: Surface,
        watch: Stopwatch,
        span: Option<Span>,
    ) -> DecisionWatch<'_> {
        let (lookup, end, span) = (Lookup::None, None, span.map(Box::new));
        DecisionWatch { metrics: &self.metrics, surface, watch, lookup, end, span }
    }

    /// A call of administration began; the method is one that there is, or `_OTHER`.
    #[must_use]
    pub fn call<'a>(
        &'a self,
        method: &'a str,
        headers: &HeaderMap,
        peer: Option<&Peer>,
    ) -> CallWatch<'a> {
        let timing = self.metrics.calls.begin(method, "CANCELLED");
        let span = self.span(headers, method, peer).map(|span| of_grpc(span, method));
        CallWatch { method, timing, span }
    }

    /// The span of a call, when it is sampled.
    fn span(&self, headers: &HeaderMap, name: &str, peer: Option<&Peer>) -> Option<Span> {
        let mut span = self.tracer.as_ref()?.server(headers, name)?;
        if let Some(Listen::Tcp(address)) = &self.server {
            span.note("server.address", address.ip().to_string());
            span.note_number("server.port", address.port());
        }
        match peer.map(|peer| peer.origin) {
            Some(Origin::Tcp(address)) => {
                span.note("network.peer.address", address.ip().to_string());
                span.note_number("network.peer.port", address.port());
            }
            Some(Origin::Unix) => span.note("network.transport", "unix"),
            None => {}
        }
        Some(span)
    }
}

fn of_grpc(mut span: Span, method: &str) -> Span {
    span.note("rpc.system.name", "grpc");
    span.note("rpc.method", method);
    span
}

fn of_http(mut span: Span, method: &str, route: &str, scheme: &str) -> Span {
    span.note("http.request.method", method);
    span.note("http.route", route);
    span.note("url.path", route);
    span.note("url.scheme", scheme);
    span
}

/// The method, when it is one that there is: what a client made up is not repeated.
fn known_method(method: &Method) -> &'static str {
    match method.as_str() {
        "GET" => "GET",
        "HEAD" => "HEAD",
        "POST" => "POST",
        "PUT" => "PUT",
        "PATCH" => "PATCH",
        "DELETE" => "DELETE",
        "OPTIONS" => "OPTIONS",
        _ => "_OTHER",
    }
}

/// What the caller was told.
#[derive(Debug, Clone, Copy)]
pub enum Ended {
    /// By gRPC: the name of the status.
    Grpc(&'static str),
    /// By HTTP: the status.
    Http(u16),
    /// A gateway by gRPC, and well: the HTTP status that its client shall see.
    Check(u16),
}

/// A question that is being answered.
pub struct DecisionWatch<'a> {
    metrics: &'a Metrics,
    surface: Surface,
    watch: Stopwatch,
    /// How the cache could help.
    pub lookup: Lookup,
    end: Option<Outcome>,
    span: Option<Box<Span>>,
}

impl DecisionWatch<'_> {
    /// It was answered: by this decision, or that there is none for this reason; and by this status.
    pub fn end(mut self, decided: Result<&Decision, Reason>, told: Ended) {
        let outcome = decided.map_or_else(Outcome::Failed, Outcome::of);
        let who = decided.ok().and_then(|decision| decision.identity.as_ref());
        let rule = decided.ok().and_then(|decision| decision.rule.as_deref());
        self.end = Some(outcome);
        let ids = self.span.as_mut().map(|span| {
            note_decision(span, outcome, self.lookup, who);
            if let Some(rule) = rule {
                span.note("latchkey.rule", rule);
            }
            note_end(span, told);
            span.ids()
        });
        if let Outcome::Observed(denial) = outcome {
            let key_id = who.map(|who| tracing::field::display(&who.key_id));
            let reason = denial.as_str();
            tracing::info!(rule, reason, key_id, "a rule that is only observed would have denied");
        }
        tracing::debug!(
            surface = self.surface.as_str(),
            rule,
            ambiguity = decided.ok().and_then(|decision| decision.ambiguity).map(Ambiguity::as_str),
            decision = outcome.decision(),
            reason = outcome.reason(),
            cache = self.lookup.as_str(),
            key_id = who.map(|who| tracing::field::display(&who.key_id)),
            account_id = who.map(|who| tracing::field::display(&who.account)),
            duration_us = micros(self.watch.elapsed()),
            trace_id = ids.as_ref().map(|(trace, _)| trace.as_str()),
            span_id = ids.as_ref().map(|(_, span)| span.as_str()),
            "decided"
        );
    }
}

impl Drop for DecisionWatch<'_> {
    fn drop(&mut self) {
        let outcome = self.end.unwrap_or(Outcome::Cancelled);
        if let (None, Some(span)) = (self.end, &mut self.span) {
            note_decision(span, outcome, self.lookup, None);
        }
        self.metrics.decisions.book(self.surface, self.lookup, outcome, self.watch.elapsed());
    }
}

fn note_decision(span: &mut Span, outcome: Outcome, lookup: Lookup, who: Option<&Identity>) {
    span.note("latchkey.decision", outcome.decision());
    span.note("latchkey.reason", outcome.reason());
    span.note("latchkey.cache", lookup.as_str());
    if let Some(who) = who {
        span.note("latchkey.key_id", who.key_id.to_string());
        span.note("latchkey.account_id", who.account.to_string());
    }
}

/// A denial is an answer like any other; what the service failed at is an error.
fn note_end(span: &mut Span, told: Ended) {
    match told {
        Ended::Grpc(status) => {
            span.note("rpc.response.status_code", status);
            if matches!(
                status,
                "UNKNOWN"
                    | "DEADLINE_EXCEEDED"
                    | "UNIMPLEMENTED"
                    | "INTERNAL"
                    | "UNAVAILABLE"
                    | "DATA_LOSS"
            ) {
                span.fail(status);
            }
        }
        Ended::Http(status) | Ended::Check(status) => {
            if matches!(told, Ended::Check(_)) {
                span.note("rpc.response.status_code", "OK");
            }
            span.note_number("http.response.status_code", status);
            if status >= 500 {
                span.fail(&status.to_string());
            }
        }
    }
}

/// As a number that JSON can hold.
fn micros(took: Duration) -> u64 {
    u64::try_from(took.as_micros()).unwrap_or(u64::MAX)
}

/// A call of administration that is being answered.
pub struct CallWatch<'a> {
    method: &'a str,
    timing: Timing<'a>,
    span: Option<Span>,
}

impl CallWatch<'_> {
    /// Answers the call within its span, if it has one.
    pub async fn scope<F: Future>(&self, work: F) -> F::Output {
        match &self.span {
            Some(span) => span.context().scope(work).await,
            None => work.await,
        }
    }

    /// It was answered by this status.
    pub fn end(mut self, status: &'static str) {
        let ids = self.span.as_mut().map(|span| {
            note_end(span, Ended::Grpc(status));
            span.ids()
        });
        tracing::debug!(
            method = self.method,
            status,
            duration_us = micros(self.timing.elapsed()),
            trace_id = ids.as_ref().map(|(trace, _)| trace.as_str()),
            span_id = ids.as_ref().map(|(_, span)| span.as_str()),
            "answered"
        );
        self.timing.end(status);
    }
}
