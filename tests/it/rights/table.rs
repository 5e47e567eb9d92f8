//! The table: a row for every call, a column for every kind of caller.

use latchkey::proto::v1::{
    Account, ApplyPolicyRequest, AuthorizeRequest, CreateAccountRequest, CreateKeyRequest,
    Environment, GetAccountRequest, GetKeyRequest, GetPolicyRequest, Key, ListAccountsRequest,
    ListKeysRequest, ListNodesRequest, LookupKeyRequest, Plan, Policy, QueryAuditRequest,
    RevokeKeyRequest, RotateKeyRequest, Scope, UpdateAccountRequest, UpdateKeyRequest,
    lookup_key_request::By, revoke_key_request::Target as Revoked,
};
use prost::Message;
use prost_types::FieldMask;
use tonic::Code;

use super::stage::Target;

/// Who calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Caller {
    /// Without a credential.
    Nobody,
    /// With one that is no token.
    Malformed,
    /// With a key of the target's account that holds all of the policy's scopes, and none of latchkey's.
    DataKey,
    /// An operator of the target's account with every scope that reads.
    Reader,
    /// An operator of another account with every scope.
    Foreign,
    /// An operator of latchkey's own account with every scope, whose key has expired,
    Expired,
    /// is revoked,
    Revoked,
    /// or is paused.
    Paused,
    /// An operator with every scope, of an account that is suspended.
    Suspended,
    /// An operator of the target's account with every scope, who may hand out `memory:*`.
    Own,
    /// An operator of latchkey's own account with the row's scope alone, who may hand out `memory:*`.
    Reserved,
}

pub(super) const CALLERS: [Caller; 11] = [
    Caller::Nobody,
    Caller::Malformed,
    Caller::DataKey,
    Caller::Reader,
    Caller::Foreign,
    Caller::Expired,
    Caller::Revoked,
    Caller::Paused,
    Caller::Suspended,
    Caller::Own,
    Caller::Reserved,
];

/// What comes of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cell {
    /// It is done.
    Done,
    /// It is answered, and the answer says nothing of the target or its account.
    Hidden,
    /// It is refused with this code and reason.
    Refused(Code, &'static str),
}

impl Cell {
    pub(super) const NOT_FOUND: Self = Self::Refused(Code::NotFound, "NOT_FOUND");
    const DENIED: Self = Self::Refused(Code::PermissionDenied, "PERMISSION_DENIED");
    const INVALID: Self = Self::Refused(Code::Unauthenticated, "INVALID_CREDENTIAL");
    const MISSING: Self = Self::Refused(Code::Unauthenticated, "MISSING_CREDENTIAL");
    const SUSPENDED: Self = Self::Refused(Code::PermissionDenied, "CALLER_SUSPENDED");
}

/// A call, with a request that is right.
pub(super) struct Row {
    pub(super) call: &'static str,
    /// Which of the ways in which it is called.
    pub(super) what: &'static str,
    pub(super) scope: &'static str,
    pub(super) request: fn(&Target) -> Vec<u8>,
    /// Whether it changes the store when it is done.
    pub(super) changes: bool,
    pub(super) cells: Cells,
}

type Cells = &'static [Cell; 11];

/// The cells of a row: what differs, in the order of [`CALLERS`]. No row lets anybody in whose key does not work.
const fn cells(reader: Cell, foreign: Cell, own: Cell) -> [Cell; 11] {
    use Cell as C;
    let ended = C::INVALID;
    [
        C::MISSING,
        C::INVALID,
        C::DENIED,
        reader,
        foreign,
        ended,
        ended,
        ended,
        C::SUSPENDED,
        own,
        C::Done,
    ]
}

/// Reads what belongs to an account.
const READ: Cells = &cells(Cell::Done, Cell::NOT_FOUND, Cell::Done);
/// Reads whatever the caller reaches.
const SEARCH: Cells = &cells(Cell::Done, Cell::Hidden, Cell::Done);
/// Changes what belongs to an account.
const WRITE: Cells = &cells(Cell::DENIED, Cell::NOT_FOUND, Cell::Done);
/// Changes what of an account is not its own to change.
const GOVERN: Cells = &cells(Cell::DENIED, Cell::NOT_FOUND, Cell::DENIED);
/// Changes what belongs to no account.
const RULE: Cells = &cells(Cell::DENIED, Cell::DENIED, Cell::DENIED);

/// A row of a call that only reads.
const fn row(
    call: &'static str,
    what: &'static str,
    scope: &'static str,
    request: fn(&Target) -> Vec<u8>,
    cells: Cells,
) -> Row {
    Row { call, what, scope, request, changes: false, cells }
}

/// A row of a call that changes the store.
const fn change(
    call: &'static str,
    what: &'static str,
    scope: &'static str,
    request: fn(&Target) -> Vec<u8>,
    cells: Cells,
) -> Row {
    Row { call, what, scope, request, changes: true, cells }
}

const DECIDE: &str = "latchkey:authorize";
const READ_KEYS: &str = "latchkey:keys.read";
const WRITE_KEYS: &str = "latchkey:keys.write";
const READ_ACCOUNTS: &str = "latchkey:accounts.read";
const WRITE_ACCOUNTS: &str = "latchkey:accounts.write";
const READ_POLICY: &str = "latchkey:policy.read";
const WRITE_POLICY: &str = "latchkey:policy.write";
const READ_AUDIT: &str = "latchkey:audit.read";
const READ_NODES: &str = "latchkey:nodes.read";

const AUTHORIZE: &str = "/latchkey.v1.AuthorizationService/Authorize";
const CREATE_KEY: &str = "/latchkey.v1.KeyService/CreateKey";
const GET_KEY: &str = "/latchkey.v1.KeyService/GetKey";
const LOOKUP_KEY: &str = "/latchkey.v1.KeyService/LookupKey";
const LIST_KEYS: &str = "/latchkey.v1.KeyService/ListKeys";
const UPDATE_KEY: &str = "/latchkey.v1.KeyService/UpdateKey";
const REVOKE_KEY: &str = "/latchkey.v1.KeyService/RevokeKey";
const ROTATE_KEY: &str = "/latchkey.v1.KeyService/RotateKey";
const CREATE_ACCOUNT: &str = "/latchkey.v1.AccountService/CreateAccount";
const GET_ACCOUNT: &str = "/latchkey.v1.AccountService/GetAccount";
const LIST_ACCOUNTS: &str = "/latchkey.v1.AccountService/ListAccounts";
const UPDATE_ACCOUNT: &str = "/latchkey.v1.AccountService/UpdateAccount";
const GET_POLICY: &str = "/latchkey.v1.PolicyService/GetPolicy";
const APPLY_POLICY: &str = "/latchkey.v1.PolicyService/ApplyPolicy";
const LIST_NODES: &str = "/latchkey.v1.NodeService/ListNodes";
const QUERY_AUDIT: &str = "/latchkey.v1.AuditService/QueryAudit";

pub(super) const ROWS: &[Row] = &[
    // Where `grpc.callers = "key"`: about any token, whosever it is.
    row(AUTHORIZE, "a token", DECIDE, authorize, &cells(Cell::DENIED, Cell::Done, Cell::Done)),
    change(CREATE_KEY, "a key", WRITE_KEYS, create_key, WRITE),
    row(GET_KEY, "a key", READ_KEYS, get_key, READ),
    row(LOOKUP_KEY, "by token", READ_KEYS, lookup_token, SEARCH),
    row(LOOKUP_KEY, "by hint", READ_KEYS, lookup_hint, SEARCH),
    row(LIST_KEYS, "of an account", READ_KEYS, list_keys, READ),
    row(LIST_KEYS, "all", READ_KEYS, |_| bytes(&ListKeysRequest::default()), SEARCH),
    change(UPDATE_KEY, "its name", WRITE_KEYS, rename_key, WRITE),
    change(UPDATE_KEY, "a pause", WRITE_KEYS, pause_key, WRITE),
    change(REVOKE_KEY, "by id", WRITE_KEYS, revoke_id, WRITE),
    change(REVOKE_KEY, "by token", WRITE_KEYS, revoke_token, WRITE),
    change(ROTATE_KEY, "a key", WRITE_KEYS, rotate_key, WRITE),
    change(CREATE_ACCOUNT, "an account", WRITE_ACCOUNTS, create_account, RULE),
    row(GET_ACCOUNT, "an account", READ_ACCOUNTS, get_account, READ),
    row(LIST_ACCOUNTS, "all", READ_ACCOUNTS, |_| bytes(&ListAccountsRequest::default()), SEARCH),
    change(UPDATE_ACCOUNT, "its name", WRITE_ACCOUNTS, rename_account, WRITE),
    row(UPDATE_ACCOUNT, "its plan", WRITE_ACCOUNTS, plan_account, GOVERN),
    row(UPDATE_ACCOUNT, "its suspension", WRITE_ACCOUNTS, resume_account, GOVERN),
    change(UPDATE_ACCOUNT, "why it is", WRITE_ACCOUNTS, explain_account, GOVERN),
    row(GET_POLICY, "", READ_POLICY, get_policy, &cells(Cell::Done, Cell::Done, Cell::Done)),
    row(APPLY_POLICY, "a trial", WRITE_POLICY, |it| bytes(&policy(it, true)), RULE),
    change(APPLY_POLICY, "", WRITE_POLICY, |it| bytes(&policy(it, false)), RULE),
    row(QUERY_AUDIT, "of an account", READ_AUDIT, audit_account, READ),
    row(QUERY_AUDIT, "of a key", READ_AUDIT, audit_key, READ),
    row(LIST_NODES, "", READ_NODES, |_| bytes(&ListNodesRequest {}), RULE),
    row(QUERY_AUDIT, "all", READ_AUDIT, |_| bytes(&QueryAuditRequest::default()), SEARCH),
];

fn bytes(message: &impl Message) -> Vec<u8> {
    message.encode_to_vec()
}

fn authorize(target: &Target) -> Vec<u8> {
    bytes(&AuthorizeRequest {
        token: target.token.clone(),
        required_scope: "memory:read".into(),
        ..Default::default()
    })
}

fn create_key(target: &Target) -> Vec<u8> {
    bytes(&CreateKeyRequest {
        account_id: target.account.clone(),
        display_name: "made".into(),
        environment: Environment::Live.into(),
        scopes: vec!["memory:read".into()],
        ..Default::default()
    })
}

fn get_key(target: &Target) -> Vec<u8> {
    bytes(&GetKeyRequest { key_id: target.key_id.clone() })
}

fn lookup_token(target: &Target) -> Vec<u8> {
    bytes(&LookupKeyRequest { by: Some(By::Token(target.token.clone())) })
}

fn lookup_hint(target: &Target) -> Vec<u8> {
    bytes(&LookupKeyRequest { by: Some(By::Hint(target.hint.clone())) })
}

fn list_keys(target: &Target) -> Vec<u8> {
    bytes(&ListKeysRequest { account_id: target.account.clone(), ..Default::default() })
}

fn rename_key(target: &Target) -> Vec<u8> {
    let key = Key { display_name: "renamed".into(), ..Key::default() };
    update_key(target, key, "display_name")
}

fn pause_key(target: &Target) -> Vec<u8> {
    update_key(target, Key { disabled: true, ..Key::default() }, "disabled")
}

fn update_key(target: &Target, key: Key, path: &str) -> Vec<u8> {
    bytes(&UpdateKeyRequest {
        key: Some(Key { key_id: target.key_id.clone(), ..key }),
        update_mask: Some(FieldMask { paths: vec![path.into()] }),
        ..Default::default()
    })
}

fn revoke_id(target: &Target) -> Vec<u8> {
    let target = Some(Revoked::KeyId(target.key_id.clone()));
    bytes(&RevokeKeyRequest { target, ..Default::default() })
}

fn revoke_token(target: &Target) -> Vec<u8> {
    let target = Some(Revoked::Token(target.token.clone()));
    bytes(&RevokeKeyRequest { target, ..Default::default() })
}

fn rotate_key(target: &Target) -> Vec<u8> {
    bytes(&RotateKeyRequest { key_id: target.key_id.clone(), ..Default::default() })
}

fn create_account(target: &Target) -> Vec<u8> {
    let account_id = format!("made-{}", target.number);
    bytes(&CreateAccountRequest { account_id, ..Default::default() })
}

fn get_account(target: &Target) -> Vec<u8> {
    bytes(&GetAccountRequest { account_id: target.account.clone() })
}

fn rename_account(target: &Target) -> Vec<u8> {
    let display_name = format!("renamed {}", target.number);
    update_account(target, Account { display_name, ..Account::default() }, "display_name")
}

/// To the plan that it is on already: keys go on being made in it.
fn plan_account(target: &Target) -> Vec<u8> {
    let account = Account { plan: "enterprise".into(), ..Account::default() };
    update_account(target, account, "plan")
}

fn resume_account(target: &Target) -> Vec<u8> {
    update_account(target, Account::default(), "suspended")
}

fn explain_account(target: &Target) -> Vec<u8> {
    let suspend_reason = format!("reason {}", target.number);
    update_account(target, Account { suspend_reason, ..Account::default() }, "suspend_reason")
}

fn update_account(target: &Target, account: Account, path: &str) -> Vec<u8> {
    bytes(&UpdateAccountRequest {
        account: Some(Account { account_id: target.account.clone(), ..account }),
        update_mask: Some(FieldMask { paths: vec![path.into()] }),
        ..Default::default()
    })
}

fn get_policy(_: &Target) -> Vec<u8> {
    bytes(&GetPolicyRequest {})
}

fn policy(target: &Target, validate_only: bool) -> ApplyPolicyRequest {
    let scope = |name: &str| Scope {
        name: name.into(),
        description: format!("applied {}", target.number),
        ..Scope::default()
    };
    let plan = |name: &str| Plan { name: name.into(), ..Plan::default() };
    let policy = Policy {
        scopes: ["memory:read", "memory:admin"].map(scope).into(),
        plans: ["free", "enterprise"].map(plan).into(),
        ..Policy::default()
    };
    ApplyPolicyRequest {
        policy: Some(policy),
        validate_only,
        allow_orphans: true,
        ..Default::default()
    }
}

fn audit_account(target: &Target) -> Vec<u8> {
    bytes(&QueryAuditRequest { account_id: target.account.clone(), ..Default::default() })
}

fn audit_key(target: &Target) -> Vec<u8> {
    bytes(&QueryAuditRequest { key_id: target.key_id.clone(), ..Default::default() })
}
