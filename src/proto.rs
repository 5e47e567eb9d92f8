//! The API's messages, clients and servers, generated from `proto/` by `build.rs`.
//!
//! A message that holds a token has no generated `Debug`; the ones below leave the token out.

use std::fmt;

use self::v1::{
    AuthorizeRequest, CreateKeyResponse, Environment, LookupKeyRequest, RevokeKeyRequest,
    RevokeReason, RotateKeyResponse, lookup_key_request, revoke_key_request,
};
use self::vendored::envoy::config::core::v3::HeaderValue;
use self::vendored::envoy::service::auth::v3::attribute_context::HttpRequest;

pub mod check;
pub(crate) mod codec;
pub mod wire;

/// Package `latchkey.v1`.
#[expect(
    unused_qualifications,
    clippy::allow_attributes,
    clippy::allow_attributes_without_reason,
    clippy::default_trait_access,
    clippy::disallowed_methods,
    clippy::doc_markdown,
    clippy::must_use_candidate,
    clippy::too_many_lines,
    reason = "generated code is not ours to polish"
)]
pub mod v1 {
    tonic::include_proto!("latchkey.v1");
}

/// What others have defined (`proto/vendor`), in packages as they name them: Envoy's external authorization.
#[expect(
    missing_docs,
    unused_qualifications,
    clippy::allow_attributes_without_reason,
    clippy::all,
    clippy::pedantic,
    reason = "generated code is not ours to polish"
)]
pub mod vendored {
    include!(concat!(env!("OUT_DIR"), "/vendored.rs"));
}

/// The encoded descriptors of all that is served and all that it imports, comments included.
pub const FILE_DESCRIPTOR_SET: &[u8] = tonic::include_file_descriptor_set!("descriptors");

const REDACTED: &str = "[redacted]";

impl fmt::Debug for AuthorizeRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            token: _,
            required_scope,
            authenticate_only,
            client_address,
            required_environment,
            min_revision,
            cost,
        } = self;
        f.debug_struct("AuthorizeRequest")
            .field("token", &REDACTED)
            .field("required_scope", required_scope)
            .field("authenticate_only", authenticate_only)
            .field("client_address", client_address)
            .field("required_environment", &Environment::try_from(*required_environment))
            .field("min_revision", min_revision)
            .field("cost", cost)
            .finish()
    }
}

impl fmt::Debug for HttpRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpRequest").field("method", &self.method).finish_non_exhaustive()
    }
}

impl fmt::Debug for HeaderValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { key, value: _, raw_value: _ } = self;
        f.debug_struct("HeaderValue").field("key", key).field("value", &REDACTED).finish()
    }
}

impl fmt::Debug for CreateKeyResponse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { key, token: _, revision } = self;
        f.debug_struct("CreateKeyResponse")
            .field("key", key)
            .field("token", &REDACTED)
            .field("revision", revision)
            .finish()
    }
}

impl fmt::Debug for LookupKeyRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { by } = self;
        f.debug_struct("LookupKeyRequest").field("by", by).finish()
    }
}

impl fmt::Debug for lookup_key_request::By {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Token(_) => f.debug_tuple("Token").field(&REDACTED).finish(),
            Self::Hint(hint) => f.debug_tuple("Hint").field(hint).finish(),
        }
    }
}

impl fmt::Debug for RevokeKeyRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { target, reason, comment, wait, revoke_created } = self;
        f.debug_struct("RevokeKeyRequest")
            .field("target", target)
            .field("reason", &RevokeReason::try_from(*reason))
            .field("comment", comment)
            .field("wait", wait)
            .field("revoke_created", revoke_created)
            .finish()
    }
}

impl fmt::Debug for revoke_key_request::Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::KeyId(key_id) => f.debug_tuple("KeyId").field(key_id).finish(),
            Self::Token(_) => f.debug_tuple("Token").field(&REDACTED).finish(),
        }
    }
}

impl fmt::Debug for RotateKeyResponse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { key, token: _, previous_key, receipt } = self;
        f.debug_struct("RotateKeyResponse")
            .field("key", key)
            .field("token", &REDACTED)
            .field("previous_key", previous_key)
            .field("receipt", receipt)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use prost::Message;

    use super::v1::{Key, lookup_key_request::By, revoke_key_request::Target};
    use super::*;

    const TOKEN: &str = "hm_live_0000000000000000000000000000002dlYSp";

    #[test]
    fn no_message_prints_its_token() {
        let token = || TOKEN.to_owned();
        let authorize = AuthorizeRequest { token: token(), ..Default::default() };
        let created = CreateKeyResponse { token: token(), ..Default::default() };
        let rotated = RotateKeyResponse { token: token(), ..Default::default() };
        let lookup = LookupKeyRequest { by: Some(By::Token(token())) };
        let revoke =
            RevokeKeyRequest { target: Some(Target::Token(token())), ..Default::default() };

        let messages: [&dyn fmt::Debug; 5] = [&authorize, &created, &rotated, &lookup, &revoke];
        for message in messages {
            let text = format!("{message:?}");
            assert!(!text.contains(&TOKEN["hm_live_".len()..]), "{text}");
            assert!(text.contains(REDACTED), "{text}");
        }
    }

    #[test]
    fn a_message_with_a_token_prints_the_rest() {
        let key = Key { key_id: "key_1".to_owned(), ..Key::default() };
        let created = CreateKeyResponse { key: Some(key), ..CreateKeyResponse::default() };
        assert!(format!("{created:?}").contains(r#"key_id: "key_1""#));
    }

    #[test]
    fn the_descriptor_set_carries_the_comments() {
        let set = prost_types::FileDescriptorSet::decode(FILE_DESCRIPTOR_SET).expect("decodes");
        let sources = set.file.iter().filter_map(|file| file.source_code_info.as_ref());
        let mut commented = sources.flat_map(|source| &source.location);
        assert!(commented.any(|it| it.leading_comments().starts_with(" Administers accounts.")));
    }
}
