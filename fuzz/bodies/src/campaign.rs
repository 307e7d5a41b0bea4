//! `campaign FOLDER SECONDS [TARGET…]`: mutates the seeds of each target for so long, on stable Rust. It goes on where it ended,
//! and keeps a record of what it has run in FOLDER: `TARGET.json`. What a target fails on is kept as `TARGET.failed-N`, and what
//! ends the process as `TARGET.now`.

use chunkstore::id::to_hex;
use fuzzing::mutate::Mutator;
use fuzzing::{Target, all, seeds};
use std::fs;
use std::io::{Error, Result, Write as _};
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
    fn read(folder: &Path, target: &str) -> Self {
        let path = folder.join(format!("{target}.json"));
        let known: serde_json::Value =
            fs::read(&path).ok().and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or_default();
        let number = |name: &str| known[name].as_u64().unwrap_or(0);
        let (rounds, inputs) = (number("rounds"), number("inputs"));
        Self { path, rounds, inputs, ms: number("ms"), failures: number("failures") }
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
    let mut record = Record::read(folder, target.name);
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
    record.write()?;
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
