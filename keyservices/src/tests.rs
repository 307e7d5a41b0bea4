//! The secret of slots, over a service in memory that fails as it is told.

use crate::{Address, Binding, Cache, CacheFolder, KeyService, Kind, Refusal, Sealed, ServiceSecret};
use chunkstore::env::{Env, SeededEnv, SystemEnv};
use chunkstore::id::{ObjectId, RepositoryId};
use chunkstore::keys::{
    KdfParams, KeyRing, NewSlot, SlotHeader, SlotOwner, SlotSecret as _, make_slot, open_slot, slot_header,
};
use std::os::unix::fs::PermissionsExt as _;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use zeroize::Zeroizing;

/// Wraps by writing binding and secret in hex, and counts what is asked.
#[derive(Default)]
struct State {
    refuses: Option<Kind>,
    /// It unwraps to this, whatever was wrapped.
    says: Option<Vec<u8>>,
    asked: usize,
}

struct Memory(Arc<Mutex<State>>);

impl KeyService for Memory {
    fn describe(&self) -> String {
        "a service in memory".into()
    }

    fn is_of(&self, slot: &Address, _key: &str) -> bool {
        *slot == address()
    }

    fn wrap(&self, secret: &[u8; 32], binding: &Binding) -> Result<Sealed, Refusal> {
        let bound = blake3::hash(binding.text().as_bytes()).to_hex();
        let secret: String = secret.iter().map(|byte| format!("{byte:02x}")).collect();
        Ok(Sealed { key: "v1".into(), wrapped: format!("{bound}:{secret}") })
    }

    fn unwrap(&self, sealed: &Sealed, binding: &Binding) -> Result<Zeroizing<[u8; 32]>, Refusal> {
        let mut state = self.0.lock().unwrap();
        state.asked += 1;
        if let Some(kind) = state.refuses {
            return Err(Refusal::new(kind, "as it was told"));
        }
        if let Some(said) = &state.says {
            return crate::secret_of(said);
        }
        let (bound, secret) = sealed.wrapped.split_once(':').unwrap();
        if bound != blake3::hash(binding.text().as_bytes()).to_hex().as_str() {
            return Err(Refusal::new(Kind::Context, "another binding"));
        }
        let bytes = chunkstore::id::from_hex(secret).unwrap();
        Ok(Zeroizing::new(bytes.try_into().unwrap()))
    }
}

fn address() -> Address {
    Address::parse("vault://127.0.0.1:1/transit/k").unwrap()
}

/// The system's randomness, and a clock that is set.
struct Clock(Mutex<Duration>);

impl Env for Clock {
    fn now(&self) -> Duration {
        *self.0.lock().unwrap()
    }
    fn random(&self, bytes: &mut [u8]) -> chunkstore::Result<()> {
        SystemEnv.random(bytes)
    }
    fn sleep(&self, _: Duration) {}
}

struct Bench {
    folder: tempfile::TempDir,
    state: Arc<Mutex<State>>,
    clock: Arc<Clock>,
    slot: ObjectId,
    header: SlotHeader,
    bytes: Vec<u8>,
}

const HOUR: Duration = Duration::from_secs(3600);

impl Bench {
    fn new() -> Self {
        let (state, folder) = (Arc::default(), tempfile::tempdir().unwrap());
        let clock = Arc::new(Clock(Mutex::new(1000 * HOUR)));
        let env = SeededEnv::new(1);
        let ring = KeyRing::generate(RepositoryId([3; 16]), &env).unwrap();
        let service = Box::new(Memory(Arc::clone(&state)));
        let secret = ServiceSecret::new(service, address(), None, Arc::new(SystemEnv));
        let (slot, bytes) =
            make_slot(&ring, &secret, KdfParams::default(), SlotOwner::default(), &env).unwrap();
        assert!(open_slot(&slot, &bytes, &secret).unwrap().is_some());
        let header = slot_header(&slot, &bytes).unwrap();
        Self { folder, state, clock, slot, header, bytes: bytes.to_vec() }
    }

    fn refuses(&self, kind: Option<Kind>) {
        self.state.lock().unwrap().refuses = kind;
    }

    /// As a new process.
    fn open(&self, keep: Option<Duration>) -> chunkstore::Result<Zeroizing<[u8; 32]>> {
        let folder = CacheFolder::new(self.folder.path().join("kms"));
        let cache = keep.map(|keep| Cache::new(folder, keep));
        let service = Box::new(Memory(Arc::clone(&self.state)));
        let secret = ServiceSecret::new(service, address(), cache, Arc::clone(&self.clock) as _);
        assert!(secret.is_for(&self.header));
        let opened = secret.open(&self.slot, &self.header)?;
        // What is not right opens nothing.
        let _ = open_slot(&self.slot, &self.bytes, &secret)?;
        Ok(opened)
    }

    fn file(&self) -> std::path::PathBuf {
        self.folder.path().join("kms").join(format!("{}.kept", self.slot))
    }
}

#[test]
fn what_is_kept_is_used_while_the_service_is_down_and_not_after_its_time() {
    let bench = Bench::new();
    let secret = bench.open(Some(HOUR)).unwrap();
    let kept = std::fs::read(bench.file()).unwrap();
    assert!(!kept.windows(32).any(|part| part == *secret), "the secret is in clear");
    assert_eq!(std::fs::metadata(bench.file()).unwrap().permissions().mode() & 0o777, 0o600);
    bench.refuses(Some(Kind::Away));
    assert_eq!(*bench.open(Some(HOUR)).unwrap(), *secret);
    assert!(bench.open(None).is_err(), "without being asked for");
    *bench.clock.0.lock().unwrap() += HOUR - Duration::from_millis(1);
    assert_eq!(*bench.open(Some(2 * HOUR)).unwrap(), *secret);
    assert!(bench.open(Some(HOUR / 2)).is_err(), "a shorter time is what counts");
    assert!(!bench.file().exists());
    bench.refuses(None);
    bench.open(Some(HOUR)).unwrap();
    *bench.clock.0.lock().unwrap() += HOUR;
    bench.refuses(Some(Kind::Away));
    let failed = bench.open(Some(HOUR)).unwrap_err();
    assert!(matches!(failed, chunkstore::Error::KeyService { is_away: true, .. }), "{failed}");
    assert!(failed.to_string().contains("nothing is kept of it") && !bench.file().exists(), "{failed}");
}

#[test]
fn what_the_service_refuses_is_let_go_of() {
    for kind in [Kind::NoLogin, Kind::Denied, Kind::Disabled, Kind::Lost, Kind::TooOld, Kind::Context] {
        let bench = Bench::new();
        bench.open(Some(HOUR)).unwrap();
        bench.refuses(Some(kind));
        let failed = bench.open(Some(HOUR)).unwrap_err();
        assert!(matches!(failed, chunkstore::Error::KeyService { is_away: false, .. }), "{failed}");
        bench.refuses(Some(Kind::Away));
        assert!(bench.open(Some(HOUR)).is_err(), "{kind:?}");
    }
}

/// An answer that opens nothing, or is no secret at all, takes nothing from what was kept.
#[test]
fn what_the_service_gives_wrongly_is_not_kept() {
    let bench = Bench::new();
    let secret = bench.open(Some(HOUR)).unwrap();
    for wrong in [vec![7; 32], vec![7; 31], vec![]] {
        bench.state.lock().unwrap().says = Some(wrong.clone());
        match bench.open(Some(HOUR)) {
            Ok(said) => assert_eq!(said[..], wrong),
            Err(failed) => {
                assert!(matches!(failed, chunkstore::Error::KeyService { is_away: false, .. }), "{failed}");
                assert_ne!(wrong.len(), 32);
            }
        }
        bench.state.lock().unwrap().says = None;
        bench.refuses(Some(Kind::Away));
        assert_eq!(*bench.open(Some(HOUR)).unwrap(), *secret, "after {} bytes", wrong.len());
        bench.refuses(None);
    }
    std::fs::remove_file(bench.file()).unwrap();
    bench.state.lock().unwrap().says = Some(vec![7; 32]);
    bench.open(Some(HOUR)).unwrap();
    assert!(!bench.file().exists());
}

#[test]
fn what_others_can_read_or_was_changed_is_not_used() {
    let bench = Bench::new();
    let secret = bench.open(Some(HOUR)).unwrap();
    bench.refuses(Some(Kind::Away));
    let said = || bench.open(Some(HOUR)).unwrap_err().to_string();
    let mode = |path: &std::path::Path, mode| {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    };
    mode(&bench.file(), 0o640);
    assert!(said().contains("others can read it"));
    mode(&bench.file(), 0o600);
    mode(bench.file().parent().unwrap(), 0o755);
    assert!(said().contains("others can read it"));
    mode(bench.file().parent().unwrap(), 0o700);
    assert_eq!(*bench.open(Some(HOUR)).unwrap(), *secret);
    let kept = std::fs::read(bench.file()).unwrap();
    for at in 0..kept.len() {
        let mut bad = kept.clone();
        bad[at] ^= 1;
        std::fs::write(bench.file(), &bad).unwrap();
        assert!(bench.open(Some(HOUR)).is_err(), "byte {at}");
        std::fs::write(bench.file(), &kept).unwrap();
        mode(&bench.file(), 0o600);
    }
    std::fs::write(bench.file(), &kept[..kept.len() - 1]).unwrap();
    assert!(said().contains("damaged"));
    // A link to it is not followed.
    let elsewhere = bench.folder.path().join("elsewhere");
    std::fs::write(&elsewhere, &kept).unwrap();
    mode(&elsewhere, 0o600);
    std::fs::remove_file(bench.file()).unwrap();
    std::os::unix::fs::symlink(&elsewhere, bench.file()).unwrap();
    assert!(bench.open(Some(HOUR)).is_err());
}

#[test]
fn one_process_asks_once_for_each_slot_and_a_slot_elsewhere_is_another_one() {
    let bench = Bench::new();
    let service = Box::new(Memory(Arc::clone(&bench.state)));
    let secret = ServiceSecret::new(service, address(), None, Arc::new(SystemEnv));
    bench.state.lock().unwrap().asked = 0;
    for _ in 0..3 {
        secret.open(&bench.slot, &bench.header).unwrap();
    }
    assert_eq!(bench.state.lock().unwrap().asked, 1);
    let moved = SlotHeader { repository_id: RepositoryId([4; 16]), ..bench.header.clone() };
    let other = secret.open(&bench.slot, &moved).unwrap_err();
    assert!(other.to_string().contains("another binding"), "{other}");
    // What the slot says of its service decides only whether it is tried.
    let mut hostile = bench.header.clone();
    hostile.members.insert("service".into(), "vault://evil.example:8200/transit/k".into());
    assert!(!secret.is_for(&hostile));
}

#[test]
fn no_slot_is_made_that_was_not_proved_to_open_unless_that_is_asked_for() {
    let state: Arc<Mutex<State>> = Arc::default();
    state.lock().unwrap().refuses = Some(Kind::Denied);
    let make = |unproved: bool| {
        let secret =
            ServiceSecret::new(Box::new(Memory(Arc::clone(&state))), address(), None, Arc::new(SystemEnv));
        let secret = if unproved { secret.unproved() } else { secret };
        let env = SystemEnv;
        let (repository, slot) = (RepositoryId([3; 16]), ObjectId([9; 32]));
        let new = NewSlot { repository: &repository, slot: &slot, kdf: KdfParams::default(), env: &env };
        secret.make(&new).map(drop)
    };
    let failed = make(false).unwrap_err().to_string();
    assert!(failed.contains("--wrap-only"), "{failed}");
    make(true).unwrap();
}

/// As docs/format.md has it.
#[test]
fn the_binding_is_a_text_that_others_can_make() {
    let binding = Binding { repository: RepositoryId([3; 16]), slot: ObjectId([9; 32]) };
    let expected = format!(
        r#"{{"esker:purpose":"key-slot","esker:repository":"{}","esker:slot":"{}"}}"#,
        "03".repeat(16),
        "09".repeat(32)
    );
    assert_eq!(binding.text(), expected);
    let hash = blake3::hash(expected.as_bytes()).to_hex();
    assert_eq!(hash.as_str(), "9b2c42c154295f6259253500b8ee6e861363d07cf6299f044cc2c29c5c122070");
}
