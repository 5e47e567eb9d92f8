//! Questions of a gateway without guards, made from the same attacks as the requests through Envoy; and some that only a
//! gateway can ask.

use latchkey::proto::vendored::envoy::config::core::v3::address::Address as Kind;
use latchkey::proto::vendored::envoy::config::core::v3::{
    Address, HeaderValueOption, SocketAddress,
};
use latchkey::proto::vendored::envoy::service::auth::v3::OkHttpResponse;
use prost::Message as _;
use prost_types::value::Kind as Said;
use prost_types::{Struct, Value};

use super::super::attacks::{PLAIN, draft_of_any, plain_draft};
use super::super::cast::{By, Cast};
use super::super::places::{Place, places};
use super::super::shot::{Draft, Shot};
use super::super::upstream::Hit;
use super::message::{
    Attributes, Check, Header, HeaderMap, Http, Metadata, Pair, Peer, Request, Told,
};
use crate::support::Dice;

const CONTEXTS_KIND: &str = "Check: what the gateway's configuration says";
const MISTAKES: &str = "Check: what it says wrongly";
const TOOLS: &str = "Check: tools";
const DAMAGED: &str = "Check: damaged messages";
/// From where all clients come.
const HERE: &str = "198.51.100.1";

/// What stands in `context_extensions`.
type Context = &'static [(&'static str, &'static str)];

#[derive(Clone)]
pub(super) struct Question {
    pub(super) shot: Shot,
    pub(super) by: By,
    pub(super) check: Check,
    /// Sent instead.
    pub(super) damaged: Option<Vec<u8>>,
    /// Whether it is the gateway that asks wrongly.
    pub(super) is_mistaken: bool,
    /// Whether it has to pass.
    pub(super) is_good: bool,
    /// What the upstream would be asked for, if it passed.
    method: Vec<u8>,
    target: Vec<u8>,
    fields: Vec<(Vec<u8>, Vec<u8>)>,
}

/// The question of this number, which follows from the seed and the number alone.
pub(super) fn question(seed: u64, number: u64, cast: &Cast) -> Question {
    let mut dice = Dice::new(seed).apart(number);
    let way = dice.below(12);
    let attack = dice.apart(1);
    // Where the gateway says something, the client does nothing odd in half of the cases.
    let is_plain = way == 8 || way == 10 || (way > 6 && dice.is_one_of(1, 2));
    let make = if is_plain { plain_draft } else { draft_of_any };
    let (kind, draft) = make(number, attack, cast);
    let mut question = Question::of(kind, draft, &mut dice);
    match way {
        0..7 => {}
        7 | 8 => question.ask_by_context(&mut dice),
        9 => question.ask_wrongly(&mut dice),
        10 => question.ask_for_tools(&mut dice),
        _ => question.damage(&mut dice),
    }
    question
}

impl Question {
    fn of(kind: &'static str, draft: Draft<'_>, dice: &mut Dice) -> Self {
        let (method, target) = (draft.method.clone(), draft.target.clone());
        let host = draft.hosts.first().cloned().unwrap_or_default();
        let fields = draft.told();
        let http = Http { method: method.clone(), path: target.clone(), host, ..Http::default() };
        let mut http = Http { protocol: b"HTTP/1.1".to_vec(), ..http };
        if dice.is_one_of(1, 2) {
            let header = |(key, raw_value): &(Vec<u8>, Vec<u8>)| Header {
                key: key.clone(),
                value: vec![],
                raw_value: raw_value.clone(),
            };
            http.header_map = Some(HeaderMap { headers: fields.iter().map(header).collect() });
        } else {
            http.headers = joined(&fields);
        }
        let socket = SocketAddress { address: HERE.into(), ..SocketAddress::default() };
        let address = Some(Address { address: Some(Kind::SocketAddress(socket)) });
        let attributes = Attributes {
            source: Some(Peer { address }),
            request: Some(Request { http: Some(http) }),
            ..Attributes::default()
        };
        let shot = draft.finished(kind);
        let (by, check) = (By::Rules, Check { attributes: Some(attributes) });
        let mut question = Self {
            shot,
            by,
            check,
            damaged: None,
            is_mistaken: false,
            is_good: false,
            method,
            target,
            fields,
        };
        question.is_good = question.is_sure();
        question
    }

    /// Whether it is no attack, and may pass.
    fn is_sure(&self) -> bool {
        let (plain, _) = places(self.by, &self.method, &self.target);
        let may = self.shot.brings(0).is_some_and(|who| who.may(self.by, plain));
        self.shot.kind == PLAIN && (plain == Place::Open || may)
    }

    fn attributes(&mut self) -> &mut Attributes {
        self.check.attributes.get_or_insert_default()
    }

    /// Without one of its headers, or of what else it says.
    pub(super) fn without(&self, at: usize) -> Option<Self> {
        let mut less = self.clone();
        if let Some(damaged) = &mut less.damaged {
            let bytes = damaged.len().div_ceil(32).max(1);
            let start = at * bytes;
            if start >= damaged.len() {
                return None;
            }
            damaged.drain(start..(start + bytes).min(damaged.len()));
            return Some(less);
        }
        if at >= less.fields.len() {
            return None;
        }
        less.fields.remove(at);
        if less.shot.fields == self.fields.len() {
            less.shot = less.shot.without(less.shot.fields_at + at);
        }
        let fields = less.fields.clone();
        let http = less.attributes().request.as_mut()?.http.as_mut()?;
        if let Some(map) = &mut http.header_map {
            map.headers.remove(at);
        } else {
            http.headers = joined(&fields);
        }
        Some(less)
    }

    // === What only a gateway can ask ===

    /// The place does not depend on the path, so the path is one that is there.
    fn ask_by_context(&mut self, dice: &mut Dice) {
        const CONTEXTS: [(Context, &str, By); 9] = [
            (&[("required_scope", "memory:read")], "/items/7", By::Scopes),
            (&[("required_scope", "memory:admin")], "/admin/7", By::Scopes),
            (&[("required_scope", "memory:admin or memory:read")], "/items/7", By::Scopes),
            (&[("required_scope", "memory:read and memory:admin")], "/admin/7", By::Scopes),
            (
                &[("required_scope", "memory:read"), ("required_environment", "live")],
                "/items/7",
                By::Rules,
            ),
            (
                &[("required_scope", "memory:admin"), ("required_environment", "live")],
                "/admin/7",
                By::Rules,
            ),
            (
                &[("required_scope", "memory:read"), ("cost", "7"), ("realm", "a b")],
                "/items/7",
                By::Scopes,
            ),
            (
                &[("authenticate_only", "true"), ("cost", "1"), ("required_environment", "live")],
                "/me",
                By::Rules,
            ),
            (
                &[("required_scope", "billing:read"), ("required_scope", "memory:read")],
                "/elsewhere",
                By::Rules,
            ),
        ];
        let (context, target, by) = *dice.pick(&CONTEXTS);
        self.say(context);
        (self.method, self.target, self.by) = (b"GET".to_vec(), target.into(), by);
        self.is_mistaken = target == "/elsewhere";
        self.is_good = self.is_sure();
        self.shot.kind = if self.is_mistaken { MISTAKES } else { CONTEXTS_KIND };
    }

    fn ask_wrongly(&mut self, dice: &mut Dice) {
        const MISTAKEN: [Context; 14] = [
            &[("require_scope", "memory:read")],
            &[("required_scope", "memory:read"), ("scope", "memory:read")],
            &[("required_scope", "memory:reed")],
            &[("required_scope", "")],
            &[("required_scope", "memory:read or")],
            &[("required_scope", "memory:read"), ("authenticate_only", "true")],
            &[("authenticate_only", "false")],
            &[("authenticate_only", "")],
            &[("authenticate_only", "true"), ("authenticate_only", "true")],
            &[("authenticate_only", "true"), ("required_environment", "prod")],
            &[("authenticate_only", "true"), ("cost", "-1")],
            &[("authenticate_only", "true"), ("realm", "\"")],
            &[("REQUIRED_SCOPE", "memory:read")],
            &[("", "")],
        ];
        self.say(dice.pick::<Context>(&MISTAKEN));
        (self.is_mistaken, self.is_good) = (true, false);
        self.target = b"/elsewhere".to_vec();
        self.shot.kind = MISTAKES;
    }

    fn say(&mut self, context: Context) {
        let pair =
            |(key, value): &(&str, &str)| Pair { key: (*key).into(), value: (*value).into() };
        self.attributes().context_extensions = context.iter().map(pair).collect();
    }

    /// What a filter of the gateway says of the body, which is as odd as can be.
    fn ask_for_tools(&mut self, dice: &mut Dice) {
        let (report, tool) = report(dice);
        let odd = *dice.pick(&["envoy.filters.http.MCP", "mcp"]);
        let filter = if dice.is_one_of(1, 6) { odd } else { "envoy.filters.http.mcp" };
        let is_twice = dice.is_one_of(1, 8);
        let told = Told { key: filter.into(), value: report.encode_to_vec() };
        let filters = if is_twice { vec![told.clone(), told] } else { vec![told] };
        let attributes = self.attributes();
        attributes.metadata_context = Some(Metadata { filter_metadata: filters });
        if let Some(http) = attributes.request.as_mut().and_then(|it| it.http.as_mut()) {
            (http.method, http.path) = (b"POST".to_vec(), b"/mcp".to_vec());
        }
        let is_seen = filter == "envoy.filters.http.mcp" && !is_twice;
        self.method = b"GET".to_vec();
        self.target = match tool.filter(|_| is_seen) {
            Some("memory_recall") => b"/items/7".to_vec(),
            Some("memory_export_subgraph") => b"/admin/7".to_vec(),
            _ => b"/elsewhere".to_vec(),
        };
        self.is_good = self.is_sure();
        self.shot.kind = TOOLS;
    }

    fn damage(&mut self, dice: &mut Dice) {
        let mut bytes = self.check.encode_to_vec();
        // Without a change of lengths most of it can still be read.
        let ways = if dice.is_one_of(3, 4) { 3 } else { 6 };
        for _ in 0..=dice.below(4) {
            if bytes.is_empty() {
                break;
            }
            let length = bytes.len() as u64;
            let at = usize::try_from(dice.below(length)).unwrap();
            match dice.below(ways) {
                0 | 1 => bytes[at] = u8::try_from(dice.below(256)).unwrap(),
                2 => bytes[at] ^= 1 << dice.below(8),
                3 => drop(bytes.remove(at)),
                4 => bytes.insert(at, u8::try_from(dice.below(256)).unwrap()),
                _ if dice.is_one_of(1, 3) => bytes.truncate(at),
                _ => bytes.extend_from_within(at..),
            }
        }
        (self.damaged, self.is_good) = (Some(bytes), false);
        self.shot.kind = DAMAGED;
    }

    // === What comes of an answer ===

    /// The request as the gateway would pass it on.
    pub(super) fn seen_by_upstream(&self, ok: OkHttpResponse) -> Hit {
        let OkHttpResponse { headers, headers_to_remove, .. } = ok;
        let mut fields = self.fields.clone();
        // What has nothing to do with latchkey is the gateway's own affair.
        let is_gateways = |name: &[u8]| {
            let name = String::from_utf8_lossy(name).to_ascii_lowercase().replace(['_', '.'], "-");
            matches!(&*name, "x-original-url" | "x-rewrite-url" | "x-latchkey-something-new")
                || !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
        };
        fields.retain(|(name, _)| !is_gateways(name));
        let is = |name: &[u8], other: &str| name.eq_ignore_ascii_case(other.as_bytes());
        fields.retain(|(name, _)| !headers_to_remove.iter().any(|other| is(name, other)));
        for HeaderValueOption { header, .. } in headers {
            let header = header.unwrap_or_default();
            fields.retain(|(name, _)| !is(name, &header.key));
            fields.push((header.key.into_bytes(), header.value.into_bytes()));
        }
        for (name, _) in &mut fields {
            name.make_ascii_lowercase();
        }
        Hit { method: self.method.clone(), target: self.target.clone(), fields, ..Hit::default() }
    }
}

/// What a filter tells of a body, and the tool that it clearly names.
fn report(dice: &mut Dice) -> (Struct, Option<&'static str>) {
    const NAMES: [&str; 7] = [
        "memory_recall",
        "memory_recall",
        "memory_export_subgraph",
        "memory_export_subgraph",
        "memory_recall ",
        "",
        "Memory_Recall",
    ];
    let of = |kind| Value { kind: Some(kind) };
    let text = |text: &str| of(Said::StringValue(text.into()));
    let tool = *dice.pick(&NAMES);
    let odd = *dice.pick(&["tools/list", "TOOLS/CALL", ""]);
    let method = if dice.is_one_of(1, 6) { odd } else { "tools/call" };
    let is_mcp = match dice.below(12) {
        0 => Value { kind: None },
        1 => of(Said::BoolValue(false)),
        2 => text("true"),
        3 => of(Said::NumberValue(1.0)),
        _ => of(Said::BoolValue(true)),
    };
    let name = match dice.below(12) {
        0 => Value { kind: None },
        1 => of(Said::NumberValue(7.0)),
        2 => of(Said::StructValue(Struct::default())),
        _ => text(tool),
    };
    let (is_mcp_right, is_named) = (is_mcp == of(Said::BoolValue(true)), name == text(tool));
    let params = of(Said::StructValue(Struct { fields: [("name".to_owned(), name)].into() }));
    let more = match dice.below(8) {
        0 => Some(("status", text("mcp_partial"))),
        1 => Some(("passthrough_reason", text("mcp_not_jsonrpc"))),
        2 => Some(("is_exceeding_limit", of(Said::BoolValue(true)))),
        3 => Some(("status", of(Said::NumberValue(0.0)))),
        _ => None,
    };
    let is_read = more.is_none();
    let fields = [
        ("is_mcp_request", is_mcp),
        ("status", text("mcp_ok")),
        ("method", text(method)),
        ("params", params),
    ];
    let fields = fields.into_iter().chain(more).map(|(name, value)| (name.to_owned(), value));
    let is_clear = is_mcp_right && is_named && is_read && method == "tools/call";
    (Struct { fields: fields.collect() }, Some(tool).filter(|_| is_clear))
}

/// As Envoy does it by default: one of each name, in lower case.
fn joined(fields: &[(Vec<u8>, Vec<u8>)]) -> Vec<Pair> {
    let mut joined: Vec<Pair> = vec![];
    for (name, value) in fields {
        let key = name.to_ascii_lowercase();
        match joined.iter_mut().find(|pair| pair.key == key) {
            Some(pair) => pair.value = [&pair.value[..], b",", value].concat(),
            None => joined.push(Pair { key, value: value.clone() }),
        }
    }
    joined
}
