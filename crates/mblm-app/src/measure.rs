//! Measures the speed of training and generation in wall-clock time: median, smallest and largest
//! of alternating repetitions.
//!
//! The upper limit is the speed of a plain matrix product as wide as the local stage: in `f32` on
//! the CPU, whatever the precision, and in the precision of training on a GPU. A training step is
//! forward, backward, clipping and Adam on bytes that are drawn anew for every step. Products and
//! steps alternate, so that both see the same load on the machine.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Result;
use candle_core::DType;
use mblm::config::Precision;
use mblm::generate::{Generator, GeneratorState, ShardThreads};
use mblm::machine::speed::{Product, Spread};
use mblm::model::{Chunking, Mblm, Model, ModelBatch};
use mblm::train::{Learner, Recipe};

/// The smallest number of repetitions.
const FEWEST: usize = 3;

/// Random bytes that no model can predict, the same in every run.
pub(crate) struct Noise(u64);

impl Noise {
    pub(crate) fn new() -> Self {
        Self(0x9e37_79b9_7f4a_7c15)
    }

    /// Returns `count` ids below 256, by xorshift.
    pub(crate) fn ids(&mut self, count: usize) -> Vec<u32> {
        let byte = || {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            (self.0 >> 56) as u32
        };
        std::iter::repeat_with(byte).take(count).collect()
    }
}

/// The measured speed of training.
pub(crate) struct Training {
    /// Seconds per step.
    pub(crate) step: Spread,
    /// FLOP/s of a plain matrix product.
    pub(crate) limit: Spread,
}

/// Trains for about `time` on batches of `rows` samples of `len` bytes, after one warm-up step.
pub(crate) fn training(
    model: &Arc<Model>,
    (precision, chunking): (Precision, Chunking),
    (rows, len): (usize, usize),
    time: Duration,
    tick: &dyn Fn(),
) -> Result<Training> {
    let architecture = model.architecture();
    let width = architecture.model().hidden_dims.last().copied().unwrap_or(1);
    let product = Product::new(width, precision, model.device())?;
    let recipe = Recipe::new(1e-4)
        .with_max_grad_norm(1.0)
        .with_precision(precision)
        .with_chunking(chunking);
    let mut learner = Learner::new(model.clone(), recipe)?;
    let mut noise = Noise::new();
    let (mut steps, mut limit) = (Vec::new(), Vec::new());
    let mut begun = Instant::now();
    for index in 0.. {
        let batch = ModelBatch::new(noise.ids(rows * len), rows, len);
        let speed = product.run()?;
        let start = Instant::now();
        learner.learn(&batch, index)?;
        model.device().synchronize()?;
        let seconds = start.elapsed().as_secs_f64();
        tick();
        if index == 0 {
            begun = Instant::now(); // memory, threads and kernels are ready
            continue;
        }
        steps.push(seconds);
        limit.push(speed);
        if steps.len() >= FEWEST && begun.elapsed() >= time {
            break;
        }
    }
    Ok(Training {
        step: Spread::of(steps),
        limit: Spread::of(limit),
    })
}

/// The measured speed of generation, in bytes per second.
pub(crate) struct Generation {
    pub(crate) prefill: Spread,
    /// One stream.
    pub(crate) one: Spread,
    /// Several streams together.
    pub(crate) several: Spread,
}

/// Reads `prompt` ids and generates `count` more for about `time`, alternating between one stream
/// and `streams`.
pub(crate) fn generation(
    model: &Arc<Mblm>,
    (prompt, count, streams): (usize, usize, usize),
    time: Duration,
    tick: &dyn Fn(),
) -> Result<Generation> {
    let generator = Generator::new(model.clone())?;
    let mut noise = Noise::new();
    let ids = noise.ids(prompt);
    let (mut prefill, mut one, mut several) = (Vec::new(), Vec::new(), Vec::new());
    let mut begun = Instant::now();
    for round in 0.. {
        let mut state = generator.begin(1);
        let start = Instant::now();
        generator.prefill(&mut state, &[&ids])?;
        model.device().synchronize()?;
        let read = prompt as f64 / start.elapsed().as_secs_f64();
        let alone = decode(&generator, vec![state.clone()], &noise.ids(count))?;
        let together = decode(&generator, state.fork_shards(streams)?, &noise.ids(count))?;
        tick();
        if round == 0 {
            begun = Instant::now();
            continue;
        }
        prefill.push(read);
        one.push(alone);
        several.push(together);
        if prefill.len() >= FEWEST && begun.elapsed() >= time {
            break;
        }
    }
    Ok(Generation {
        prefill: Spread::of(prefill),
        one: Spread::of(one),
        several: Spread::of(several),
    })
}

/// Returns bytes per second over all streams of all shards. The next byte is a random one, which
/// costs nothing.
fn decode(generator: &Generator, mut shards: Vec<GeneratorState>, ids: &[u32]) -> Result<f64> {
    let streams: usize = shards.iter().map(GeneratorState::streams).sum();
    let threads = ShardThreads::new(shards.len())?;
    let start = Instant::now();
    let results = threads.side_by_side(&mut shards, |shard| -> Result<()> {
        for id in ids {
            let logits = generator.step(shard, &vec![*id; shard.streams()])?;
            // the logits that a sampler would read
            logits.to_dtype(DType::F32)?.to_vec2::<f32>()?;
        }
        Ok(())
    });
    results.into_iter().collect::<Result<()>>()?;
    Ok((ids.len() * streams) as f64 / start.elapsed().as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn noise_is_bytes_of_all_values() {
        let ids = Noise::new().ids(10_000);
        assert!((0..256).all(|byte| ids.contains(&byte)));
        assert!(ids.iter().all(|id| *id < 256));
    }
}
