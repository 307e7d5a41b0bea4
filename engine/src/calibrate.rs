//! The speed of this machine: the cost of each stage on the user's own bytes, on one thread, and the speeds that follow
//! from them. The roofline is `cores / Σ costs` of the stages that a byte passes, or the speed of the one thread that
//! reads and cuts a stream, if that is lower.

use crate::{Error, Result};
use chunkstore::ChunkId;
use chunkstore::aead::{Cipher, counter_nonce};
use chunkstore::chunker::{Chunker, ChunkerParams};
use chunkstore::env::Env;
use chunkstore::format::Codec;
use chunkstore::seal::{Compression, Compressor, Decompressor, DeltaCompressor, Patcher};
use serde::Serialize;
use std::io::{Read, Seek, Write};
use std::ops::Range;
use std::path::Path;

/// Nanoseconds a byte of input, by one thread.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Stages {
    /// Reading from the page cache.
    pub read: f64,
    /// Writing a new file, as far as the page cache.
    pub write: f64,
    /// Finding cuts.
    pub cut: f64,
    /// Naming chunks.
    pub hash: f64,
    /// Compressing alone.
    pub compress: f64,
    /// Compressing against a base that differs in one byte of a thousand.
    pub delta: f64,
    /// Encrypting; a byte of output.
    pub encrypt: f64,
    /// Decompressing.
    pub decompress: f64,
    /// Decompressing against a base.
    pub decompress_delta: f64,
    /// Compressed over plain bytes.
    pub ratio: f64,
}

/// Speeds in bytes a second that the stages allow.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Roofline {
    /// New, compressible data.
    pub first: f64,
    /// A night whose every chunk changed a little.
    pub changed: f64,
    /// Chunks that exist already.
    pub duplicate: f64,
    /// Reading back.
    pub restore: f64,
}

/// Runs `work` often enough to be measured; returns nanoseconds a byte.
fn measure(env: &dyn Env, bytes: usize, work: &mut dyn FnMut() -> Result<()>) -> Result<f64> {
    let mut best = f64::INFINITY;
    // The fastest of a few: others on the machine only ever slow it down.
    for _ in 0..3 {
        let start = env.now();
        work()?;
        let took = env.now().saturating_sub(start).as_secs_f64();
        best = best.min(took * 1e9 / bytes.max(1) as f64);
    }
    Ok(best)
}

/// Measures the stages on `sample`, cut with `params`, and files in `folder`.
pub fn stages(
    sample: &[u8],
    folder: &Path,
    params: ChunkerParams,
    compression: Compression,
    env: &dyn Env,
) -> Result<Stages> {
    let chunker = Chunker::new(params, &[7; 32])?;
    let mut chunks: Vec<Range<usize>> = vec![];
    let len = sample.len();
    let mut stages = Stages::default();
    let mut buffer = vec![0; 1 << 20];
    let failed = |error: std::io::Error| Error::Invalid(format!("scratch in {}: {error}", folder.display()));
    let mut file = tempfile::tempfile_in(folder).map_err(failed)?;
    stages.write = measure(env, len, &mut || {
        file = tempfile::tempfile_in(folder).map_err(failed)?;
        file.write_all(sample).map_err(failed)
    })?;
    stages.read = measure(env, len, &mut || {
        file.rewind().map_err(failed)?;
        while file.read(&mut buffer).map_err(failed)? > 0 {}
        Ok(())
    })?;
    stages.cut = measure(env, len, &mut || {
        chunks.clear();
        let mut at = 0;
        while at < len {
            let end = at + chunker.cut(&sample[at..]);
            chunks.push(at..end);
            at = end;
        }
        Ok(())
    })?;
    stages.hash = measure(env, len, &mut || {
        for chunk in &chunks {
            let id = ChunkId(*blake3::keyed_hash(&[9; 32], &sample[chunk.clone()]).as_bytes());
            std::hint::black_box(id);
        }
        Ok(())
    })?;
    let mut frames: Vec<(Codec, Vec<u8>)> = vec![];
    let mut compressor = Compressor::new(compression)?;
    let mut out = Vec::with_capacity(params.max_len as usize);
    stages.compress = measure(env, len, &mut || {
        frames.clear();
        for chunk in &chunks {
            out.clear();
            let codec = compressor.compress(&sample[chunk.clone()], &mut out);
            frames.push((codec, out.clone()));
        }
        Ok(())
    })?;
    stages.ratio = frames.iter().map(|(_, frame)| frame.len()).sum::<usize>() as f64 / len.max(1) as f64;
    let mut decompressor = Decompressor::new()?;
    let mut plain = vec![];
    let invalid = |why: String| chunkstore::Error::Invalid(why);
    stages.decompress = measure(env, len, &mut || {
        for ((codec, frame), chunk) in frames.iter().zip(&chunks) {
            decompressor.decompress_into(*codec, frame, &[], chunk.len(), &mut plain).map_err(invalid)?;
        }
        Ok(())
    })?;
    let cipher = Cipher::new(&[9; 32]);
    let mut buffer = sample[..len.min(1 << 20)].to_vec();
    let rounds = 64;
    stages.encrypt = measure(env, rounds * buffer.len(), &mut || {
        for round in 0..rounds {
            std::hint::black_box(cipher.seal(counter_nonce(round as u64), b"calibrate", &mut buffer));
        }
        Ok(())
    })?;
    let changed: Vec<u8> =
        sample.iter().enumerate().map(|(at, byte)| if at % 1009 == 0 { byte ^ 1 } else { *byte }).collect();
    let mut deltas: Vec<(Codec, Vec<u8>)> = vec![];
    let mut compressor = DeltaCompressor::new(Patcher::default())?;
    stages.delta = measure(env, len, &mut || {
        deltas.clear();
        for chunk in &chunks {
            out.clear();
            let limit = chunk.len() + 1024;
            let codec =
                compressor.compress(&changed[chunk.clone()], &sample[chunk.clone()], limit, &mut out)?;
            deltas
                .push((codec.ok_or("a delta has no limit").map_err(|why| invalid(why.into()))?, out.clone()));
        }
        Ok(())
    })?;
    stages.decompress_delta = measure(env, len, &mut || {
        for ((codec, frame), chunk) in deltas.iter().zip(&chunks) {
            let base = &sample[chunk.clone()];
            decompressor.decompress_into(*codec, frame, base, chunk.len(), &mut plain).map_err(invalid)?;
        }
        Ok(())
    })?;
    Ok(stages)
}

impl Stages {
    /// The speeds that follow, on `cores` cores.
    #[must_use]
    pub fn roofline(&self, cores: usize) -> Roofline {
        let all = |costs: &[f64]| cores as f64 * 1e9 / costs.iter().sum::<f64>().max(1e-9);
        let stored = self.ratio * (self.encrypt + self.write);
        let loaded = self.ratio * (self.encrypt + self.read);
        // One thread reads a stream, and cuts what is not where it was.
        let reader = |costs: &[f64]| 1e9 / costs.iter().sum::<f64>().max(1e-9);
        let first = [self.read, self.cut, self.hash, self.compress, stored];
        let changed = [
            // Its base is read and named, the delta is made and tried. What is stored is little.
            self.read,
            self.hash,
            loaded,
            self.decompress,
            self.hash,
            self.delta,
            self.decompress_delta,
        ];
        Roofline {
            first: all(&first).min(reader(&[self.read, self.cut])),
            changed: all(&changed).min(reader(&[self.read])),
            duplicate: all(&[self.read, self.hash]).min(reader(&[self.read])),
            restore: all(&[loaded, self.decompress, self.hash, self.write]).min(reader(&[self.write])),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use chunkstore::env::SystemEnv;

    #[test]
    fn every_stage_takes_time_and_all_of_them_more_than_one() {
        let sample: Vec<u8> = (0..400_000u32).flat_map(|number| number.to_string().into_bytes()).collect();
        let params = ChunkerParams::around(64 << 10);
        let stages =
            stages(&sample, &std::env::temp_dir(), params, Compression::default(), &SystemEnv).unwrap();
        for cost in
            [stages.cut, stages.hash, stages.compress, stages.decompress, stages.encrypt, stages.delta]
        {
            assert!(cost > 0.0 && cost.is_finite(), "{stages:?}");
        }
        assert!(stages.ratio > 0.01 && stages.ratio < 0.9);
        let (one, two) = (stages.roofline(1), stages.roofline(2));
        assert!(one.first < one.duplicate && one.first <= two.first && two.first <= 2.0 * one.first + 1.0);
    }
}
