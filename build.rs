//! Turns `proto/` into Rust and into the descriptor set that reflection serves; no `protoc` needed.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::{env, fs};

use protox::prost_reflect::{DescriptorPool, MessageDescriptor};

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=proto");

    let mut compiler = protox::Compiler::new(["proto", "proto/vendor"])?;
    compiler.include_source_info(true).include_imports(true);
    compiler.open_files(proto_files("proto/latchkey/v1")?)?;
    compiler.open_file("envoy/service/auth/v3/external_auth.proto")?;

    // Encoded by protox: prost's own descriptor types would drop the option `debug_redact`.
    // Comments stay in, for `grpcurl describe`.
    #[expect(clippy::disallowed_methods, reason = "this is how cargo names the folder")]
    let out_dir = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(out_dir.join("descriptors.bin"), compiler.encode_file_descriptor_set())?;

    let mut ours = compiler.file_descriptor_set();
    let mut vendored = ours.clone();
    ours.file.retain(|file| matches!(file.package(), "latchkey.v1" | "google.protobuf"));
    vendored.file.retain(|file| file.package() != "latchkey.v1");
    tonic_prost_build::configure()
        .build_client(true)
        .build_server(true)
        .codec_path("crate::proto::codec::SmallCodec")
        .btree_map(".latchkey.v1") // labels come out in one order, on the wire and in logs
        .skip_debug(messages_with_a_secret(&compiler.descriptor_pool()))
        .compile_fds(ours)?;
    tonic_prost_build::configure()
        .build_client(true)
        .build_server(false) // what is asked is read in place: see `src/proto/check.rs`
        .skip_debug(HEADERS_OF_CLIENTS)
        .include_file("vendored.rs")
        .compile_fds(vendored)?;
    Ok(())
}

/// Messages with the headers of somebody's request, among them the credential: they get no `Debug` either.
const HEADERS_OF_CLIENTS: [&str; 2] =
    [".envoy.service.auth.v3.AttributeContext.HttpRequest", ".envoy.config.core.v3.HeaderValue"];

fn proto_files(directory: impl AsRef<Path>) -> Result<Vec<PathBuf>, Box<dyn Error>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "proto") {
            files.push(path);
        }
    }
    files.sort(); // the output must not depend on the order of the directory
    Ok(files)
}

/// Messages with a field marked `debug_redact`. They get no generated `Debug`, which would print
/// the secret, and so do not compile until `src/proto.rs` has one for them.
fn messages_with_a_secret(pool: &DescriptorPool) -> Vec<String> {
    pool.all_messages()
        .filter(has_a_secret)
        .map(|message| format!(".{}", message.full_name()))
        .collect()
}

fn has_a_secret(message: &MessageDescriptor) -> bool {
    message.fields().any(|field| {
        let options = field.options();
        let redact = options.get_field_by_name("debug_redact");
        redact.and_then(|value| value.as_bool()) == Some(true)
    })
}
