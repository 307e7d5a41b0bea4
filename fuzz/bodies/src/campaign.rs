//! `campaign FOLDER SECONDS [TARGET…]`: mutates the seeds of each target for so long, on stable Rust. It goes on where it ended,
//! and keeps a record of what it has run in FOLDER: `TARGET.json`, with the milliseconds of all runs. With 0 seconds it only
//! shows the records. What a target fails on is kept as `TARGET.failed-N`, and what
//! ends the process as `TARGET.now`.

use chunkstore::id::to_hex;
use fuzzing::mutate::Mutator;
use fuzzing::{Target, all, seeds};
use std::fs;
use std::io::{Error, ErrorKind, Result, Write as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// The record is written so often.
const NOTED: Duration = Duration::from_secs(10);

/// What has been run of a target.
struct Record {
    path: PathBuf,
    rounds: u64,
    inputs: u64,
    ms: u64,
    failures: u64,
}

impl Record {
    /// What is on record; nothing if there is no record yet. One that cannot be read is not begun anew.
    fn read(folder: &Path, target: &str) -> Result<Self> {
        let path = folder.join(format!("{target}.json"));
        let known: serde_json::Value = match fs::read(&path) {
            Ok(text) => serde_json::from_slice(&text)
                .map_err(|error| Error::other(format!("{}: {error}", path.display())))?,
            Err(error) if error.kind() == ErrorKind::NotFound => serde_json::Value::default(),
            Err(error) => return Err(error),
        };
        let number = |name: &str| known[name].as_u64().unwrap_or(0);
        let (rounds, inputs) = (number("rounds"), number("inputs"));
        Ok(Self { path, rounds, inputs, ms: number("ms"), failures: number("failures") })
    }

    fn write(&self) -> Result<()> {
        let Self { rounds, inputs, ms, failures, .. } = self;
        let text = serde_json::json!({"rounds": rounds, "inputs": inputs, "ms": ms, "failures": failures});
        let new = self.path.with_extension("new");
        fs::write(&new, format!("{text}\n"))?;
        fs::rename(new, &self.path)
    }
}

/// Runs a target; whether nothing was found.
fn run(target: &Target, folder: &Path, limit: Duration) -> Result<bool> {
    let mut record = Record::read(folder, target.name)?;
    let (seeds, now) = (seeds::of(target.name), folder.join(format!("{}.now", target.name)));
    let (before, began, mut noted) = (record.ms, Instant::now(), Instant::now());
    let failures = record.failures;
    while began.elapsed() < limit {
        // Each round has its own mutations, the same whenever it is run.
        let mut mutator = Mutator::at(&seeds, record.rounds);
        for seed in &seeds {
            let mut input = seed.clone();
            for _ in 0..=record.rounds % 4 {
                input = mutator.mutate(&input);
            }
            fs::write(&now, &input)?;
            record.inputs += 1;
            if std::panic::catch_unwind(|| (target.run)(&input)).is_err() {
                record.failures += 1;
                fs::write(folder.join(format!("{}.failed-{}", target.name, record.failures)), &input)?;
                writeln!(std::io::stdout(), "{} fails on {}", target.name, to_hex(&input))?;
            }
        }
        record.rounds += 1;
        record.ms = before + u64::try_from(began.elapsed().as_millis()).unwrap_or_default();
        if noted.elapsed() >= NOTED {
            record.write()?;
            noted = Instant::now();
        }
    }
    if limit > Duration::ZERO {
        record.write()?;
    }
    let seconds = record.ms / 1000;
    writeln!(
        std::io::stdout(),
        "{}: {} inputs in {seconds} s of all runs, {} failures",
        target.name,
        record.inputs,
        record.failures
    )?;
    Ok(record.failures == failures)
}

fn main() -> Result<()> {
    let mut words = std::env::args().skip(1);
    let (Some(folder), Some(seconds)) = (words.next(), words.next().and_then(|text| text.parse().ok()))
    else {
        return Err(Error::other("usage: campaign FOLDER SECONDS [TARGET…]"));
    };
    let (folder, limit) = (PathBuf::from(folder), Duration::from_secs(seconds));
    fs::create_dir_all(&folder)?;
    let wanted: Vec<String> = words.collect();
    let mut is_well = true;
    for target in all().filter(|target| wanted.is_empty() || wanted.iter().any(|name| name == target.name)) {
        is_well &= run(target, &folder, limit)?;
    }
    if is_well { Ok(()) } else { Err(Error::other("targets failed")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_campaign_goes_on_where_it_ended_and_sums_up() {
        let folder = tempfile::tempdir().unwrap();
        let target = all().find(|target| target.name == "path").unwrap();
        let record = || Record::read(folder.path(), "path").unwrap();
        let mut last = (0, 0, 0);
        for _ in 0..3 {
            assert!(run(target, folder.path(), Duration::from_millis(50)).unwrap());
            let Record { rounds, inputs, ms, failures, .. } = record();
            assert!(rounds > last.0 && inputs > last.1 && ms >= last.2 + 50 && failures == 0);
            last = (rounds, inputs, ms);
        }
        // A look changes nothing.
        assert!(run(target, folder.path(), Duration::ZERO).unwrap());
        assert_eq!((record().rounds, record().inputs, record().ms), last);
        // A record that cannot be read is not begun anew.
        fs::write(folder.path().join("path.json"), "{").unwrap();
        assert!(run(target, folder.path(), Duration::from_millis(1)).is_err());
    }

    #[test]
    fn a_failure_is_kept_and_counted() {
        let folder = tempfile::tempdir().unwrap();
        let target = Target { name: "path", run: |_| panic!("as it should") };
        assert!(!run(&target, folder.path(), Duration::from_millis(1)).unwrap());
        let record = Record::read(folder.path(), "path").unwrap();
        assert!(record.failures > 0 && record.failures == record.inputs);
        assert!(folder.path().join("path.failed-1").exists());
    }
}
