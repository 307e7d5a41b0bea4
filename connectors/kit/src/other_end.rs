//! The other end of standard input: the program that writes into the pipe, or the file that it is redirected from. With
//! its format, this identifies a stream without a name.
//!
//! A program that wrote little may end before esker looks for it, and the stream would then have two origins from night
//! to night. So the program counts only for a stream that does not fit into the pipe: its writer cannot have ended
//! before the first byte was read (pipe(7), "Pipe capacity").

use engine::names::path_text;
use rustix::fd::{AsRawFd as _, BorrowedFd};
use rustix::fs::FileType;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::sync::{Arc, OnceLock};

/// Whoever writes, once that is known for certain.
#[derive(Clone, Debug, Default)]
pub struct OtherEnd {
    told: Arc<OnceLock<String>>,
    /// A program that was found, and the bytes that prove it.
    program: Option<(String, u64)>,
}

impl OtherEnd {
    /// Looks before the first byte is read.
    pub(super) fn look(&mut self, input: BorrowedFd<'_>) {
        let Ok(stat) = rustix::fs::fstat(input) else { return };
        let Ok(link) = std::fs::read_link(format!("/proc/self/fd/{}", input.as_raw_fd())) else { return };
        match FileType::from_raw_mode(stat.st_mode) {
            // One that was unlinked is a shell's here-document.
            FileType::RegularFile if stat.st_nlink > 0 => {
                let _ = self.told.set(path_text(link.as_os_str().as_bytes()));
            }
            FileType::Fifo => {
                let capacity = rustix::pipe::fcntl_getpipe_size(input).unwrap_or(1 << 16);
                self.program = writer(&link).map(|name| (name, capacity as u64));
            }
            _ => {}
        }
    }

    /// Takes note of how many bytes were read so far.
    pub(super) fn passed(&mut self, bytes: u64) {
        if let Some((name, _)) = self.program.take_if(|(_, capacity)| bytes > *capacity) {
            let _ = self.told.set(name);
        }
    }

    /// A program's name or a file's path.
    pub(super) fn name(&self) -> Option<&str> {
        self.told.get().map(String::as_str)
    }
}

/// The program that holds the writing end of a pipe, of several the one that started first: a shell's group, say.
fn writer(pipe: &Path) -> Option<String> {
    let processes = std::fs::read_dir("/proc").ok()?.filter_map(|entry| {
        let id: u32 = entry.ok()?.file_name().to_str()?.parse().ok()?;
        (id != std::process::id() && writes(id, pipe)).then_some(id)
    });
    let first = processes.min_by_key(|id| (engine::prune::process_start(*id), *id))?;
    // The name of a script, where there is one, and not of what interprets it (proc(5), "/proc/pid/comm").
    let name = std::fs::read(format!("/proc/{first}/comm")).ok()?;
    Some(path_text(name.trim_ascii_end())).filter(|name| !name.is_empty())
}

/// Whether a process holds a descriptor of `pipe` that is open for writing (proc(5), "/proc/pid/fdinfo").
fn writes(process: u32, pipe: &Path) -> bool {
    let Ok(descriptors) = std::fs::read_dir(format!("/proc/{process}/fd")) else { return false };
    descriptors.flatten().any(|entry| {
        let number = entry.file_name();
        let info = format!("/proc/{process}/fdinfo/{}", number.to_string_lossy());
        std::fs::read_link(entry.path()).is_ok_and(|link| link == pipe)
            && std::fs::read_to_string(info).is_ok_and(|info| {
                let flags = info.lines().find_map(|line| line.strip_prefix("flags:"));
                let flags = flags.and_then(|octal| u32::from_str_radix(octal.trim(), 8).ok());
                // O_WRONLY or O_RDWR.
                flags.is_some_and(|flags| flags & 3 != 0)
            })
    })
}
