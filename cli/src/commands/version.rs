//! `esker version`

use crate::context::Context;
use crate::exit::{Code, CommandResult};
use crate::output;
use chunkstore::format::FORMAT_VERSION;
use serde_json::json;

pub(crate) fn run(context: &Context) -> CommandResult {
    let version = env!("CARGO_PKG_VERSION");
    let (os, arch) = (std::env::consts::OS, std::env::consts::ARCH);
    if context.global.json {
        output::json_line(
            &json!({"message_type": "version", "version": version, "format": FORMAT_VERSION, "os": os, "arch": arch}),
        );
    } else {
        output::line(format!("esker {version}, repository format {FORMAT_VERSION}, {os} {arch}"));
    }
    Ok(Code::Done)
}
