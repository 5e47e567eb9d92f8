//! Who may not: callers without the right key, and ids that are not theirs.

use latchkey::proto::v1::key_service_client::KeyServiceClient;
use latchkey::proto::v1::{
    Account, ApplyPolicyRequest, CreateKeyRequest, Environment, GetAccountRequest, GetKeyRequest,
    Key, ListAccountsRequest, ListKeysRequest, LookupKeyRequest, Restrictions, RevokeKeyRequest,
    RotateKeyRequest, UpdateAccountRequest, UpdateKeyRequest, lookup_key_request::By,
    revoke_key_request::Target,
};
use tonic::{Code, Request, Status};
use tonic_types::StatusExt as _;

use super::{Rig, mask, new_account, new_key, texts};
use crate::support::reason_of;

const UNKNOWN_TOKEN: &str = "hm_live_0000000000000000000000000000002dlYSp";
const UNKNOWN_KEY: &str = "key_00000000000000000000000000";

/// A key that may administer its own account, and nothing beyond it.
fn own_operator(account: &str) -> CreateKeyRequest {
    let scopes = [
        "keys.read",
        "keys.write",
        "accounts.read",
        "accounts.write",
        "policy.read",
        "policy.write",
    ];
    CreateKeyRequest {
        scopes: scopes.map(|scope| format!("latchkey:{scope}")).into(),
        grantable_scopes: texts(&["memory:*"]),
        ..new_key(account)
    }
}

#[tokio::test]
async fn a_caller_without_the_right_key_is_turned_away() {
    let mut rig = Rig::start().await;
    let data = rig.token.clone();
    let test = CreateKeyRequest { environment: Environment::Test.into(), ..new_key("acme") };
    let test = rig.make_key(test).await.token;
    let reader = CreateKeyRequest { scopes: texts(&["latchkey:policy.read"]), ..new_key("acme") };
    let reader = rig.make_key(reader).await.token;
    let restrictions = Some(Restrictions { allowed_cidrs: texts(&["192.0.2.0/24"]) });
    let elsewhere = CreateKeyRequest { restrictions, ..own_operator("acme") };
    let elsewhere = rig.make_key(elsewhere).await.token;
    let revoked = rig.make_key(own_operator("acme")).await;
    let target = Some(Target::Token(revoked.token.clone()));
    rig.keys.revoke_key(RevokeKeyRequest { target, ..Default::default() }).await.unwrap();
    rig.accounts.create_account(new_account("gone")).await.unwrap();
    let suspended = rig.make_key(own_operator("gone")).await.token;
    let gone = Account { account_id: "gone".into(), suspended: true, ..Default::default() };
    let suspend = UpdateAccountRequest {
        account: Some(gone),
        update_mask: mask(&["suspended"]),
        ..Default::default()
    };
    rig.accounts.update_account(suspend).await.unwrap();

    let before = rig.head().await;
    for (values, code, reason) in [
        (vec![], Code::Unauthenticated, "MISSING_CREDENTIAL"),
        (vec![format!("Bearer {UNKNOWN_TOKEN}")], Code::Unauthenticated, "INVALID_CREDENTIAL"),
        (vec!["Bearer x".to_owned()], Code::Unauthenticated, "INVALID_CREDENTIAL"),
        (vec!["Basic eDp4".to_owned()], Code::Unauthenticated, "INVALID_CREDENTIAL"),
        (vec![rig.root.clone()], Code::Unauthenticated, "INVALID_CREDENTIAL"),
        (vec![format!("Bearer  {}", rig.root)], Code::Unauthenticated, "INVALID_CREDENTIAL"),
        (vec![format!("Bearer {}", rig.root); 2], Code::Unauthenticated, "INVALID_CREDENTIAL"),
        (vec![format!("Bearer {}", revoked.token)], Code::Unauthenticated, "INVALID_CREDENTIAL"),
        (vec![format!("Bearer {data}")], Code::PermissionDenied, "PERMISSION_DENIED"),
        (vec![format!("Bearer {test}")], Code::PermissionDenied, "PERMISSION_DENIED"),
        (vec![format!("Bearer {reader}")], Code::PermissionDenied, "PERMISSION_DENIED"),
        (vec![format!("Bearer {suspended}")], Code::PermissionDenied, "CALLER_SUSPENDED"),
        (vec![format!("Bearer {elsewhere}")], Code::PermissionDenied, "ADDRESS_NOT_ALLOWED"),
    ] {
        let mut request = Request::new(new_key("acme"));
        for value in &values {
            request.metadata_mut().append("authorization", value.parse().unwrap());
        }
        let mut client = KeyServiceClient::new(rig.server.channel().await);
        let refused = client.create_key(request).await.unwrap_err();
        assert_eq!((refused.code(), &*reason_of(&refused)), (code, reason), "{refused:?}");
        if reason == "PERMISSION_DENIED" {
            assert!(refused.message().contains("`latchkey:keys.write`"), "{refused:?}");
        }
    }
    assert_eq!(rig.head().await, before);
}

/// What a caller is told, to the byte.
fn told<T: std::fmt::Debug>(answer: Result<tonic::Response<T>, Status>) -> (Code, String, Vec<u8>) {
    let refused = answer.unwrap_err();
    (refused.code(), refused.message().to_owned(), refused.details().to_vec())
}

/// Every call that names a key or an account, made by an operator of `acme` with these ids.
async fn told_of(
    rig: &Rig,
    operator: &str,
    key: &str,
    account: &str,
) -> Vec<(Code, String, Vec<u8>)> {
    let mut keys = rig.server.keys(operator).await;
    let mut accounts = rig.server.accounts(operator).await;
    let change = UpdateKeyRequest {
        key: Some(Key { key_id: key.into(), disabled: true, ..Default::default() }),
        update_mask: mask(&["disabled"]),
        ..Default::default()
    };
    let target = Some(Target::KeyId(key.into()));
    let rename = UpdateAccountRequest {
        account: Some(Account {
            account_id: account.into(),
            display_name: "n".into(),
            ..Default::default()
        }),
        update_mask: mask(&["display_name"]),
        ..Default::default()
    };
    let list = ListKeysRequest { account_id: account.into(), ..Default::default() };
    vec![
        told(keys.get_key(GetKeyRequest { key_id: key.into() }).await),
        told(keys.update_key(change).await),
        told(keys.revoke_key(RevokeKeyRequest { target, ..Default::default() }).await),
        told(keys.rotate_key(RotateKeyRequest { key_id: key.into(), ..Default::default() }).await),
        told(keys.create_key(new_key(account)).await),
        told(keys.list_keys(list).await),
        told(accounts.get_account(GetAccountRequest { account_id: account.into() }).await),
        told(accounts.update_account(rename).await),
    ]
}

#[tokio::test]
async fn foreign_and_unknown_ids_are_told_alike() {
    let mut rig = Rig::start().await;
    rig.accounts.create_account(new_account("other")).await.unwrap();
    let foreign = rig.make_key(new_key("other")).await;
    let operator = rig.make_key(own_operator("acme")).await.token;
    let before = rig.head().await;
    let foreign_id = foreign.key.unwrap().key_id;
    let of_foreign = told_of(&rig, &operator, &foreign_id, "other").await;
    assert!(of_foreign.iter().all(|(code, ..)| *code == Code::NotFound), "{of_foreign:?}");
    assert!(of_foreign.iter().all(|told| *told == of_foreign[0]), "{of_foreign:?}");
    assert_eq!(told_of(&rig, &operator, UNKNOWN_KEY, "nobody").await, of_foreign);
    // By the token it is the same, and a look-up finds nothing.
    let mut keys = rig.server.keys(&operator).await;
    for token in [&foreign.token, UNKNOWN_TOKEN] {
        let target = Some(Target::Token(token.into()));
        let revoke = RevokeKeyRequest { target, ..Default::default() };
        assert_eq!(told(keys.revoke_key(revoke).await), of_foreign[0]);
        let by = Some(By::Token(token.into()));
        let found = keys.lookup_key(LookupKeyRequest { by }).await.unwrap().into_inner();
        assert!(found.keys.is_empty());
    }
    assert_eq!(rig.head().await, before);
}

#[tokio::test]
async fn an_unreadable_id_is_told_as_an_unknown_one() {
    let mut rig = Rig::start().await;
    let operator = rig.make_key(own_operator("acme")).await.token;
    let before = rig.head().await;
    let of_unknown = told_of(&rig, &operator, UNKNOWN_KEY, "nobody").await;
    for (key, account) in
        [("key_x", "a b"), ("KEY_00000000000000000000000000", "../x"), ("\u{202e}", "ä")]
    {
        assert_eq!(told_of(&rig, &operator, key, account).await, of_unknown, "{key}, {account}");
    }
    assert_eq!(rig.head().await, before);
}

#[tokio::test]
async fn an_operator_of_one_account_sees_and_changes_no_more_than_it() {
    let mut rig = Rig::start().await;
    rig.accounts.create_account(new_account("other")).await.unwrap();
    let operator = rig.make_key(own_operator("acme")).await.token;
    let (mut keys, mut accounts) =
        (rig.server.keys(&operator).await, rig.server.accounts(&operator).await);
    let before = rig.head().await;
    let listed = keys.list_keys(ListKeysRequest::default()).await.unwrap().into_inner().keys;
    assert!(listed.iter().all(|key| key.account_id == "acme") && listed.len() == 2);
    let request = ListAccountsRequest::default();
    let listed = accounts.list_accounts(request).await.unwrap().into_inner().accounts;
    assert_eq!(listed.iter().map(|it| &it.account_id).collect::<Vec<_>>(), ["acme"]);

    let mut refusals = vec![accounts.create_account(new_account("more")).await.unwrap_err()];
    for path in ["plan", "suspended", "suspend_reason"] {
        let request = UpdateAccountRequest {
            account: Some(Account {
                account_id: "acme".into(),
                plan: "pro".into(),
                ..Default::default()
            }),
            update_mask: mask(&["labels", path]),
            ..Default::default()
        };
        refusals.push(accounts.update_account(request).await.unwrap_err());
    }
    let mut policies = rig.server.policies(&operator).await;
    let policy = rig.policies.get_policy(latchkey::proto::v1::GetPolicyRequest {}).await.unwrap();
    let policy = policy.into_inner().policy;
    let request = ApplyPolicyRequest { policy, ..Default::default() };
    refusals.push(policies.apply_policy(request).await.unwrap_err());
    for refused in refusals {
        assert_eq!(refused.code(), Code::PermissionDenied, "{refused:?}");
        assert_eq!(reason_of(&refused), "PERMISSION_DENIED");
        assert!(refused.message().contains("`latchkey`"), "{refused:?}");
    }
    assert_eq!(rig.head().await, before);
}

#[tokio::test]
async fn the_page_token_of_another_caller_or_list_is_refused() {
    let mut rig = Rig::start().await;
    rig.make_key(new_key("acme")).await;
    let operator = rig.make_key(own_operator("acme")).await.token;
    let mut keys = rig.server.keys(&operator).await;
    let list = ListKeysRequest { page_size: 1, ..Default::default() };
    let page_token = rig.keys.list_keys(list.clone()).await.unwrap().into_inner().next_page_token;
    assert!(!page_token.is_empty());
    let stolen = ListKeysRequest { page_token: page_token.clone(), ..list.clone() };
    super::assert_invalid(keys.list_keys(stolen).await, "page_token", "start over");
    let request = ListAccountsRequest { page_token: page_token.clone(), ..Default::default() };
    let answer = rig.accounts.list_accounts(request).await;
    super::assert_invalid(answer, "page_token", "start over");
    let mut bent = page_token;
    bent.replace_range(..1, if bent.starts_with('A') { "B" } else { "A" });
    let bent = ListKeysRequest { page_token: bent, ..list };
    super::assert_invalid(rig.keys.list_keys(bent).await, "page_token", "start over");
}

#[tokio::test]
async fn an_error_says_which_fields_are_at_fault_and_no_more_than_fits() {
    let mut rig = Rig::start().await;
    let scopes = (0..64).map(|n| format!("no:{n}-{}", "x".repeat(50))).collect();
    let refused =
        rig.keys.create_key(CreateKeyRequest { scopes, ..new_key("acme") }).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    let size = refused.message().len() + refused.details().len();
    assert!(size < 8 * 1024, "{size} bytes do not fit into the headers that clients take");
    let details = refused.get_error_details();
    let violations = &details.bad_request().unwrap().field_violations;
    assert_eq!(violations[0].field, "scopes[0]");
    assert!(violations.last().unwrap().description.ends_with("more"), "{violations:?}");
}
