//! `esker version`

use crate::context::Context;
use crate::exit::{Code, CommandResult};
use crate::output;
use chunkstore::format::FORMAT_VERSION;
use serde_json::json;

/// Go's name for a processor.
fn go_arch(arch: &str) -> &str {
    match arch {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

pub(crate) fn run(context: &Context) -> CommandResult {
    let version = env!("CARGO_PKG_VERSION");
    let (os, arch) = (std::env::consts::OS, std::env::consts::ARCH);
    if context.global.json {
        output::json_line(&json!({
            "message_type": "version", "version": version, "format": FORMAT_VERSION, "os": os, "arch": arch,
            // restic's keys. There is no Go in here; clients want a version.
            "go_version": concat!("rust", env!("CARGO_PKG_RUST_VERSION")),
            "go_os": os,
            "go_arch": go_arch(arch),
        }));
    } else {
        output::line(format!("esker {version}, repository format {FORMAT_VERSION}, {os} {arch}"));
    }
    Ok(Code::Done)
}
