//! Entries as an export of ncdu (<https://dev.yorhel.nl/ncdu/jsonfmt>), which it opens with `-f`.

use crate::output;
use engine::entry::{Entry, Kind, is_beneath};
use engine::manifest::Listed;
use serde_json::json;

/// An export that is being written.
pub(super) struct Export {
    /// The folders that are open, from the top.
    open: Vec<Vec<u8>>,
    text: String,
}

impl Export {
    pub(super) fn start(now: jiff::Timestamp) -> Self {
        let head =
            json!({"progname": "esker", "progver": env!("CARGO_PKG_VERSION"), "timestamp": now.as_second()});
        Self { open: vec![], text: format!("[1, 2, {head},\n[{}", json!({"name": "/"})) }
    }

    /// Adds the next entry in the order of a manifest.
    pub(super) fn add(&mut self, listed: &Listed) {
        let entry = &listed.entry;
        self.close(&entry.path);
        let item = item(entry, listed.size);
        self.text.push_str(",\n");
        if entry.kind == Kind::Dir {
            self.open.push(entry.path.clone());
            self.text.push('[');
        }
        self.text.push_str(&item.to_string());
        output::json_text(std::mem::take(&mut self.text));
    }

    /// Closes the folders that `path` is not in.
    fn close(&mut self, path: &[u8]) {
        while self.open.last().is_some_and(|folder| !is_beneath(path, folder)) {
            self.open.pop();
            self.text.push(']');
        }
    }

    pub(super) fn finish(mut self) {
        self.open.iter().for_each(|_| self.text.push(']'));
        output::json_text(format!("{}]]", self.text));
    }
}

fn item(entry: &Entry, size: u64) -> serde_json::Value {
    let item = json!({
        "asize": size,
        "dsize": size.div_ceil(512) * 512,
        "dev": entry.device,
        "ino": entry.inode,
        "nlink": entry.links,
        "uid": entry.uid,
        "gid": entry.gid,
        "mode": entry.mode,
        "mtime": entry.mtime.seconds,
    });
    let mut item = output::with_names(item, &[("name", entry.name())]);
    if let Some(object) = item.as_object_mut() {
        if entry.links > 1 && entry.kind != Kind::Dir {
            object.insert("hlnkc".into(), true.into());
        }
        if !matches!(entry.kind, Kind::File | Kind::Dir) {
            object.insert("notreg".into(), true.into());
        }
    }
    item
}
