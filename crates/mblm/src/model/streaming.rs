//! Training passes over first stages of any length: chunks of positions, forward and then in reverse.
//!
//! ```text
//! forward    for each chunk c: keep the state s_c before it and the last output before it; y = block(x_c, s_c), y is dropped
//! reverse    for the last chunk c first:
//!              y_c = block(x_c, s_c) again, keeping what the backward pass needs
//!              everything below y_c, forward and backward               → ∂y_c and ∂ of the last output before it
//!              (∂y_c, ∂s_{c+1}) through the block                       → ∂x_c, ∂s_c
//! ```
//!
//! The gradients are those of the whole sequence computed at once: states carry what goes from chunk to chunk, forward and,
//! as their gradients, back. In memory are the states at the borders and the activations of one chunk; the first stage's
//! forward pass is computed twice, the stages below it once. One sample goes at a time.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use candle_core::Tensor;

use super::backward::{Run, Sums};
use super::stage::Stage;
use super::state::{State, StateGradient};
use crate::{Error, Result};

/// What watches a training pass that goes in chunks.
#[derive(Clone, Copy, Default)]
pub struct Watch<'a> {
    /// Once it is set, the pass ends before its next chunk, with [`Error::Stopped`].
    pub stop: Option<&'a AtomicBool>,
    /// Told before each chunk, on the thread that computes, how many of how many parts are done: a chunk's first forward pass is
    /// one part, everything else about it as many as it takes work.
    pub progress: Option<&'a (dyn Fn(usize, usize) + Sync)>,
}

/// What is known before a chunk.
struct Border {
    state: State,
    /// The output of the position before (1, 1, D).
    before: Tensor,
}

/// How a sample's work is counted.
struct Parts {
    chunks: usize,
    /// Parts of a chunk in reverse.
    reverse: usize,
}

impl Parts {
    /// The last chunk has no first pass.
    fn all(&self) -> usize {
        self.chunks - 1 + self.chunks * self.reverse
    }

    /// What is done before chunk `index` in reverse.
    fn before_reverse(&self, index: usize) -> usize {
        self.chunks - 1 + (self.chunks - 1 - index) * self.reverse
    }
}

impl Run<'_> {
    /// All `positions` of the first stage in one sample, `chunk` of them at a time, and everything below.
    pub(super) fn stream(&self, sample: usize, positions: usize, chunk: usize, sums: &mut Sums) -> Result<()> {
        let bytes = self.model.stages[0].bytes;
        let of_sample = sample * positions * bytes..(sample + 1) * positions * bytes;
        if self.targets.weights[of_sample].iter().all(|weight| *weight == 0.0) {
            return Ok(());
        }
        let mut d_state = StateGradient::none();
        let mut d_before = None;
        let parts = Parts {
            chunks: positions.div_ceil(chunk),
            reverse: self.reverse_parts(),
        };
        let borders = self.borders(sample, (positions, chunk), &parts)?;
        for (index, border) in borders.into_iter().enumerate().rev() {
            self.go_on(sample, parts.before_reverse(index), parts.all())?;
            let from = index * chunk;
            let count = chunk.min(positions - from);
            (d_before, d_state) =
                self.chunk_backward((sample, positions), (from, count), border, d_before, d_state, sums)?;
        }
        sums.starts[0].add(d_before.as_ref(), d_state)
    }

    /// The forward sweep: what is known before each chunk.
    fn borders(&self, sample: usize, (positions, chunk): (usize, usize), parts: &Parts) -> Result<Vec<Border>> {
        let (stage, compute) = (&self.model.stages[0], &self.pass.compute);
        let Some(start) = &self.starts[0] else {
            return Ok(Vec::new());
        };
        let ids = self.ids.sequences(sample, 1, positions, stage.bytes)?; // (1, positions, bytes)
        let mut borders = vec![Border {
            state: start.state.clone(),
            before: start.y.clone(),
        }];
        let mut state = start.state.clone();
        // the last chunk is followed by nothing
        for from in (0..positions.saturating_sub(chunk)).step_by(chunk) {
            self.go_on(sample, borders.len() - 1, parts.all())?;
            let x = stage.embedding.forward(&ids.narrow(1, from, chunk)?, from, compute)?;
            let y = stage.forward(&x, &mut state, compute)?;
            borders.push(Border {
                state: state.apart()?,
                before: y.narrow(1, chunk - 1, 1)?.copy()?,
            });
        }
        Ok(borders)
    }

    /// The work of a chunk in reverse, in first forward passes: a pass forward and two backward, of all stages. By parameters, each
    /// as often as it is used at a position of the first stage.
    fn reverse_parts(&self) -> usize {
        let counts = self.model.config.parameter_counts().per_stage;
        let bytes = self.model.stages[0].bytes;
        let used = |(count, stage): (&u64, &Stage)| *count as f64 * (bytes / stage.bytes.max(1)) as f64;
        let work: Vec<f64> = counts.iter().zip(&self.model.stages).map(used).collect();
        let all: f64 = work.iter().sum();
        // at least three, and no number that overflows where the first stage is a custom block, which is not counted
        (3.0 * all / work[0].max(1.0)).clamp(3.0, 1000.0) as usize
    }

    /// Tells that `done` of `of` parts of this sample are through; fails where the pass is asked to stop.
    fn go_on(&self, sample: usize, done: usize, of: usize) -> Result<()> {
        let (done, of) = (sample * of + done, self.ids.batch * of);
        if let Some(progress) = self.watch.progress {
            progress(done, of);
        }
        match self.watch.stop.is_some_and(|stop| stop.load(Ordering::Relaxed)) {
            true => Err(Error::Stopped { done, of }),
            false => Ok(()),
        }
    }

    /// One chunk, forward again and backward. Takes the gradients of its last output from the chunk behind it and of the state
    /// after it; returns those of the output and of the state before it.
    fn chunk_backward(
        &self,
        (sample, positions): (usize, usize),
        (from, count): (usize, usize),
        border: Border,
        d_last: Option<Tensor>,
        d_state: StateGradient,
        sums: &mut Sums,
    ) -> Result<(Option<Tensor>, StateGradient)> {
        let (stage, compute) = (&self.model.stages[0], &self.pass.compute);
        let ids = self.ids.sequences(sample, 1, positions, stage.bytes)?;
        let ids = ids.narrow(1, from, count)?;
        let (x, embedded) = stage.embedding.forward_train(&ids, from, compute)?;
        let mut state = border.state.clone();
        let (y, saved) = stage.forward_train(&x, &mut state, &self.pass_of(0, sample), compute)?;
        drop(x);
        let below = self.below(0, sample * positions + from, &border.before, &y, sums)?;
        let (d_before, mut d_y) = match below {
            Some(gradients) => gradients,
            // nothing counts here, and nothing behind it depends on it
            None if d_last.is_none() && d_state.is_none() => return Ok((None, d_state)),
            None => (None, y.zeros_like()?),
        };
        drop(y);
        if let Some(d_last) = d_last {
            let last = (d_y.narrow(1, count - 1, 1)? + d_last.to_dtype(d_y.dtype())?)?;
            d_y = Tensor::cat(&[&d_y.narrow(1, 0, count - 1)?, &last], 1)?;
        }
        let begun = Instant::now();
        let d_state = d_state.in_types_of(&state)?;
        let (dx, d_state) = stage.backward(saved, &d_y, &d_state, compute, sums.gradients)?;
        stage.embedding.backward(embedded, &dx, compute, sums.gradients)?;
        sums.backward += begun.elapsed();
        Ok((d_before, d_state))
    }
}
