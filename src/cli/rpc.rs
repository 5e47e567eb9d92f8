//! Which calls there are, and the command that makes each. A test compares this list with the API's
//! descriptors and with the command line, so that no call is without a command.

use std::time::Duration;

use prost::{Message, Name};

use crate::proto::v1::{
    Account, ApplyPolicyRequest, ApplyPolicyResponse, AuditEntry, AuthorizeRequest,
    AuthorizeResponse, CreateAccountRequest, CreateAccountResponse, CreateKeyRequest,
    CreateKeyResponse, GetAccountRequest, GetAccountResponse, GetKeyRequest, GetKeyResponse,
    GetPolicyRequest, GetPolicyResponse, Key, ListAccountsRequest, ListAccountsResponse,
    ListKeysRequest, ListKeysResponse, ListNodesRequest, ListNodesResponse, LookupKeyRequest,
    LookupKeyResponse, QueryAuditRequest, QueryAuditResponse, Receipt, RevokeKeyRequest,
    RevokeKeyResponse, RotateKeyRequest, RotateKeyResponse, Rule, UpdateAccountRequest,
    UpdateAccountResponse, UpdateKeyRequest, UpdateKeyResponse,
};

const PACKAGE: &str = "latchkey.v1";

/// The request of a call.
pub(super) trait Rpc: Message + Clone + Default + 'static {
    /// What a call that was carried out answers.
    type Answer: Message + Name + Default + 'static;
    /// The path of the method.
    const PATH: &'static str;

    /// Whether the same request may be sent again when it is not known what became of the first.
    fn may_repeat(&self) -> bool;
    /// How long the server is asked to wait before it answers.
    fn wait(&self) -> Duration;
}

/// A call whose answer comes in pages.
pub(super) trait Paged: Rpc {
    /// One of what is listed.
    type Item;

    /// Where the page begins that is asked for.
    fn page_token(&self) -> &str;
    /// Asks for the page that begins at `token`, with so many items at most.
    fn at(&mut self, token: String, page_size: i32);
    /// The items of an answer, and where the next page begins.
    fn parts(answer: &mut Self::Answer) -> (&mut Vec<Self::Item>, &mut String);
}

macro_rules! calls {
    ($($command:literal: $service:literal/$method:literal, $request:ident => $answer:ident
        $(, unless $expected:ident)? $(, waits $wait:ident)?;)*) => {
        $(
            impl Rpc for $request {
                type Answer = $answer;
                const PATH: &'static str = concat!("/latchkey.v1.", $service, "/", $method);

                fn may_repeat(&self) -> bool {
                    true $(&& self.$expected.is_empty())?
                }

                fn wait(&self) -> Duration {
                    let wait = Duration::ZERO;
                    // What is below zero is the server's to refuse.
                    $(let wait = self.$wait.map_or(wait, |wait| wait.try_into().unwrap_or_default());)?
                    wait
                }
            }
        )*

        /// Each call's path and command.
        #[cfg(test)]
        const CALLS: &[(&str, &str)] = &[$((<$request as Rpc>::PATH, $command)),*];

        named!($($answer)*);
    };
}

macro_rules! named {
    ($($message:ident)*) => {
        $(
            impl Name for $message {
                const NAME: &'static str = stringify!($message);
                const PACKAGE: &'static str = PACKAGE;
            }
        )*
    };
}

// Whatever makes something is sent with a request id, so that it can be repeated. A change that
// expects a revision would find its own, and say that someone else was faster.
calls! {
    "account create": "AccountService"/"CreateAccount", CreateAccountRequest => CreateAccountResponse;
    "account get": "AccountService"/"GetAccount", GetAccountRequest => GetAccountResponse;
    "account list": "AccountService"/"ListAccounts", ListAccountsRequest => ListAccountsResponse;
    "account update": "AccountService"/"UpdateAccount",
        UpdateAccountRequest => UpdateAccountResponse, unless expected_revision;
    "audit log": "AuditService"/"QueryAudit", QueryAuditRequest => QueryAuditResponse;
    "authorize": "AuthorizationService"/"Authorize", AuthorizeRequest => AuthorizeResponse;
    "key create": "KeyService"/"CreateKey", CreateKeyRequest => CreateKeyResponse;
    "key get": "KeyService"/"GetKey", GetKeyRequest => GetKeyResponse;
    "key list": "KeyService"/"ListKeys", ListKeysRequest => ListKeysResponse;
    "key lookup": "KeyService"/"LookupKey", LookupKeyRequest => LookupKeyResponse;
    "key revoke": "KeyService"/"RevokeKey", RevokeKeyRequest => RevokeKeyResponse, waits wait;
    "key rotate": "KeyService"/"RotateKey", RotateKeyRequest => RotateKeyResponse;
    "key update": "KeyService"/"UpdateKey",
        UpdateKeyRequest => UpdateKeyResponse, unless expected_revision;
    "node list": "NodeService"/"ListNodes", ListNodesRequest => ListNodesResponse;
    "policy apply": "PolicyService"/"ApplyPolicy",
        ApplyPolicyRequest => ApplyPolicyResponse, unless expected_revision;
    "policy get": "PolicyService"/"GetPolicy", GetPolicyRequest => GetPolicyResponse;
}

named!(Account AuditEntry Key Receipt Rule);

macro_rules! paged {
    ($($request:ident, $item:ident in $items:ident;)*) => {
        $(
            impl Paged for $request {
                type Item = $item;

                fn page_token(&self) -> &str {
                    &self.page_token
                }

                fn at(&mut self, token: String, page_size: i32) {
                    self.page_token = token;
                    self.page_size = page_size;
                }

                fn parts(answer: &mut Self::Answer) -> (&mut Vec<$item>, &mut String) {
                    (&mut answer.$items, &mut answer.next_page_token)
                }
            }
        )*
    };
}

paged! {
    ListAccountsRequest, Account in accounts;
    ListKeysRequest, Key in keys;
    QueryAuditRequest, AuditEntry in entries;
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use clap::CommandFactory as _;
    use prost_reflect::DescriptorPool;

    use super::*;
    use crate::cli::Arguments;

    #[test]
    fn a_call_that_asks_to_wait_is_waited_for() {
        let wait = |seconds| prost_types::Duration { seconds, nanos: 0 };
        let request = |wait| RevokeKeyRequest { wait, ..RevokeKeyRequest::default() };
        assert_eq!(request(Some(wait(60))).wait(), Duration::from_mins(1));
        for none in [request(None), request(Some(wait(-1)))] {
            assert_eq!(none.wait(), Duration::ZERO);
        }
    }

    #[test]
    fn every_call_of_the_api_has_a_command() {
        let pool = DescriptorPool::decode(crate::proto::FILE_DESCRIPTOR_SET).unwrap();
        let services = pool.services().filter(|service| service.package_name() == PACKAGE);
        let methods = services.flat_map(|service| service.methods().collect::<Vec<_>>());
        let mut listed: BTreeMap<_, _> = CALLS.iter().copied().collect();
        for method in methods {
            let path = format!("/{}/{}", method.parent_service().full_name(), method.name());
            let line = listed.remove(path.as_str());
            let line =
                line.unwrap_or_else(|| panic!("{path} is not in `calls!`, with its command"));
            let mut command = Arguments::command();
            for word in line.split(' ') {
                let found = command.find_subcommand(word).cloned();
                command =
                    found.unwrap_or_else(|| panic!("there is no `latchkey {line}` for {path}"));
            }
        }
        assert!(listed.is_empty(), "the API has no {listed:?}");
    }
}
