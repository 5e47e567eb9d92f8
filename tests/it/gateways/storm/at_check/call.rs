//! A call of `Check` with bytes that need be no message.

use bytes::BufMut as _;
use http::uri::PathAndQuery;
use latchkey::proto::vendored::envoy::service::auth::v3::CheckResponse;
use tonic::client::Grpc;
use tonic::codec::{Codec, EncodeBuf, Encoder};
use tonic::transport::Channel;
use tonic::{Request, Status};
use tonic_prost::ProstCodec;

const CHECK: &str = "/envoy.service.auth.v3.Authorization/Check";

pub(super) async fn ask(channel: &mut Channel, message: Vec<u8>) -> Result<CheckResponse, String> {
    let mut client = Grpc::new(channel.clone());
    client.ready().await.map_err(|error| error.to_string())?;
    let path = PathAndQuery::from_static(CHECK);
    let answer = client.unary(Request::new(message), path, Raw).await;
    answer.map(tonic::Response::into_inner).map_err(|status| status.to_string())
}

struct Raw;
/// How an answer is read.
type Answer = ProstCodec<CheckResponse, CheckResponse>;

impl Codec for Raw {
    type Encode = Vec<u8>;
    type Decode = CheckResponse;
    type Encoder = Self;
    type Decoder = <Answer as Codec>::Decoder;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self::Decoder {
        Answer::default().decoder()
    }
}

impl Encoder for Raw {
    type Item = Vec<u8>;
    type Error = Status;

    fn encode(&mut self, message: Vec<u8>, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put_slice(&message);
        Ok(())
    }
}
