//! The client of `AuthorizationService`, made from latchkey's `proto` folder.

use std::error::Error;

fn main() -> Result<(), Box<dyn Error>> {
    let protos = concat!(env!("CARGO_MANIFEST_DIR"), "/../../proto");
    println!("cargo::rerun-if-changed={protos}");
    let files = protox::compile(["latchkey/v1/authorization.proto"], [protos])?;
    tonic_prost_build::configure().build_server(false).compile_fds(files)?;
    Ok(())
}
