//! A Qdrant for tests (`tests/servers/qdrant.py`), driven by the official client.

use crate::harness::{Process, free_port, server, source_root, wait_for};
use crate::qdrant_programs;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A server, or a cluster of them.
pub(crate) struct Qdrant {
    _process: Process,
    pub(crate) folder: PathBuf,
    ports: Vec<u16>,
    key: Option<&'static str>,
}

impl Qdrant {
    /// A server by itself.
    pub(crate) fn start(folder: &Path, key: Option<&'static str>) -> Self {
        Self::launch(folder, vec![free_port()], "", key)
    }

    /// A cluster of so many nodes.
    pub(crate) fn cluster(folder: &Path, nodes: usize) -> Self {
        let mark = if nodes == 1 { "+" } else { "" };
        Self::launch(folder, (0..nodes).map(|_| free_port()).collect(), mark, None)
    }

    fn launch(folder: &Path, ports: Vec<u16>, mark: &str, key: Option<&'static str>) -> Self {
        let list: Vec<String> = ports.iter().map(u16::to_string).collect();
        let mut command = Command::new(server("vectors/bin/python"));
        command
            .arg(source_root().join("tests/servers/qdrant.py"))
            .arg(list.join(",") + mark)
            .arg(folder)
            .args(key);
        let process = Process::start(&mut command);
        for port in &ports {
            wait_for("qdrant", 60, || std::net::TcpStream::connect(("127.0.0.1", *port)).is_ok());
        }
        Self { _process: process, folder: folder.to_owned(), ports, key }
    }

    pub(crate) fn port(&self) -> u16 {
        self.ports[0]
    }

    pub(crate) fn url(&self) -> String {
        self.node(0)
    }

    /// The URL of a node.
    pub(crate) fn node(&self, number: usize) -> String {
        format!("qdrant+http://127.0.0.1:{}", self.ports[number])
    }

    /// Makes a fault, or takes it away.
    pub(crate) fn fault(&self, name: &str, text: Option<&str>) {
        match text {
            Some(text) => std::fs::write(self.folder.join(name), text).unwrap(),
            None => std::fs::remove_file(self.folder.join(name)).unwrap(),
        }
    }

    /// The requests so far.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.folder.join("log")).unwrap_or_default()
    }

    /// Runs a program of the official client, which prints JSON.
    pub(crate) fn client(&self, program: &str) -> Value {
        qdrant_programs::run(self.port(), self.key, program)
    }

    pub(crate) fn answers(&self, collection: &str) -> Value {
        self.client(&format!("print(json.dumps(answers('{collection}')))"))
    }

    /// Every collection with its configuration, its indexes and all of its points; and all aliases.
    pub(crate) fn everything(&self) -> Value {
        self.client("print(json.dumps(everything()))")
    }
}
