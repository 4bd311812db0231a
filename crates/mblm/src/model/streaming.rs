//! Training passes over first stages of any length, in chunks of positions: forward, then reverse.
//!
//! ```text
//! forward    for each chunk c: keep the state s_c and the last output before it;
//!            y = block(x_c, s_c), y is dropped
//! reverse    for the last chunk c first:
//!              y_c = block(x_c, s_c) again, with the data that the backward pass needs
//!              everything below y_c, forward and backward → ∂y_c, ∂ of the last output before it
//!              (∂y_c, ∂s_{c+1}) through the block         → ∂x_c, ∂s_c
//! ```
//!
//! The gradients equal those of the whole sequence computed at once, since states carry values
//! forward and their gradients backward. Memory holds the states at the borders and one chunk's
//! activations. The first stage's forward pass runs twice, the stages below once. One sample at a
//! time.

use std::sync::atomic::Ordering;
use std::time::Instant;

use candle_core::Tensor;

use super::backward::Training;
use super::pass::Watch;
use super::stage::{OutputGradients, Outputs, Stage};
use super::state::State;
use super::state_gradient::StateGradient;
use super::sums::Sums;
use super::traverse::Group;
use crate::{Error, Result};

/// A training pass whose samples go through the first stage in chunks.
pub(super) struct Chunks<'a> {
    pub(super) training: &'a Training<'a>,
    /// Positions of a chunk.
    pub(super) chunk: usize,
    /// Progress and stop request, checked before every chunk.
    pub(super) watch: Watch<'a>,
}

/// The inputs of a chunk.
struct Border {
    state: State,
    /// The output of the position before (1, 1, D).
    before: Tensor,
}

/// The units of work of a sample, for progress.
struct Parts {
    chunks: usize,
    /// Parts of a chunk in reverse.
    reverse: usize,
}

impl Parts {
    /// All parts; the last chunk has no first pass.
    fn all(&self) -> usize {
        self.chunks - 1 + self.chunks * self.reverse
    }

    /// Parts done before chunk `index` in reverse.
    fn before_reverse(&self, index: usize) -> usize {
        self.chunks - 1 + (self.chunks - 1 - index) * self.reverse
    }
}

/// The gradients from the next chunk.
struct Behind {
    /// The gradient of this chunk's last output.
    d_last: Option<Tensor>,
    /// The gradient of the state after it.
    d_state: StateGradient,
}

impl Chunks<'_> {
    /// Trains one sample, with everything below the first stage.
    pub(super) fn sample(&self, sample: usize, sums: &mut Sums<'_>) -> Result<()> {
        let training = self.training;
        let positions = training.walk.levels[0].positions;
        let weights = &training.targets.weights;
        let of_sample = training.walk.bytes_of(&training.walk.sample(sample));
        if weights[of_sample].iter().all(|weight| *weight == 0.0) {
            return Ok(());
        }
        let parts = Parts {
            chunks: positions.div_ceil(self.chunk),
            reverse: self.reverse_parts(),
        };
        let borders = self.borders(sample, &parts)?;
        let mut behind = Behind {
            d_last: None,
            d_state: StateGradient::none(),
        };
        let groups: Vec<Group> = training.walk.chunks(sample, self.chunk).collect();
        for (index, (group, border)) in groups.iter().zip(borders).enumerate().rev() {
            self.go_on(sample, parts.before_reverse(index), parts.all())?;
            behind = self.chunk_backward(group, border, behind, sums)?;
        }
        sums.starts[0].add(behind.d_last.as_ref(), behind.d_state)
    }

    /// The forward sweep: returns the inputs of each chunk.
    fn borders(&self, sample: usize, parts: &Parts) -> Result<Vec<Border>> {
        let (training, compute) = (self.training, &self.training.pass.compute);
        let Some(start) = &training.starts[0] else {
            return Ok(Vec::new());
        };
        let mut borders = vec![Border {
            state: start.state.clone(),
            before: start.y.clone(),
        }];
        let mut state = start.state.clone();
        // no chunk follows the last
        for group in training.walk.chunks(sample, self.chunk).take(parts.chunks - 1) {
            self.go_on(sample, borders.len() - 1, parts.all())?;
            let stage = training.stage(&group);
            let x = stage
                .embedding
                .forward(&training.ids_of(&group)?, group.from, compute)?;
            let y = stage.forward(&x, &mut state, compute)?;
            borders.push(Border {
                state: state.apart()?,
                before: y.narrow(1, group.positions - 1, 1)?.copy()?,
            });
        }
        Ok(borders)
    }

    /// The work of a chunk in reverse (one forward, two backward passes of all stages), in first
    /// forward passes. Estimated by parameters times their uses per first-stage position.
    fn reverse_parts(&self) -> usize {
        let model = self.training.model;
        let counts = model.config().parameter_counts().per_stage;
        let bytes = model.stages[0].bytes;
        let used = |(count, stage): (&u64, &Stage)| *count as f64 * (bytes / stage.bytes.max(1)) as f64;
        let work: Vec<f64> = counts.iter().zip(&model.stages).map(used).collect();
        let all: f64 = work.iter().sum();
        // at least 3; bounded for a custom first stage, whose parameters are not counted
        (3.0 * all / work[0].max(1.0)).clamp(3.0, 1000.0) as usize
    }

    /// Reports that `done` of `of` parts of this sample are finished; fails on a stop request.
    fn go_on(&self, sample: usize, done: usize, of: usize) -> Result<()> {
        let (done, of) = (sample * of + done, self.training.ids.batch * of);
        if let Some(progress) = self.watch.progress {
            progress(done, of);
        }
        match self.watch.stop.is_some_and(|stop| stop.load(Ordering::Relaxed)) {
            true => Err(Error::Stopped { done, of }),
            false => Ok(()),
        }
    }

    /// Runs a chunk forward again and backward; returns the gradients of its inputs.
    fn chunk_backward(&self, group: &Group, border: Border, behind: Behind, sums: &mut Sums<'_>) -> Result<Behind> {
        let (training, compute) = (self.training, &self.training.pass.compute);
        let stage = training.stage(group);
        let Behind { d_last, d_state } = behind;
        let (x, embedded) = stage
            .embedding
            .forward_train(&training.ids_of(group)?, group.from, compute)?;
        let mut state = border.state;
        let (y, saved) = stage.forward_train(&x, &mut state, &training.pass_of(0, group.first), compute)?;
        drop(x);
        let before = border.before;
        let outputs = Outputs { before, y };
        let OutputGradients {
            before: d_before,
            y: mut d_y,
        } = match training.walk.below(training, group, &outputs, sums)? {
            Some(gradients) => gradients,
            // no prediction counts in this chunk or after it
            None if d_last.is_none() && d_state.is_none() => return Ok(Behind { d_last: None, d_state }),
            None => OutputGradients {
                before: None,
                y: outputs.y.zeros_like()?,
            },
        };
        drop(outputs);
        if let Some(d_last) = d_last {
            let count = group.positions;
            let last = (d_y.narrow(1, count - 1, 1)? + d_last.to_dtype(d_y.dtype())?)?;
            d_y = Tensor::cat(&[&d_y.narrow(1, 0, count - 1)?, &last], 1)?;
        }
        let begun = Instant::now();
        let d_state = d_state.in_types_of(&state)?;
        let (dx, d_state) = stage.backward(saved, &d_y, &d_state, compute, sums.gradients)?;
        stage.embedding.backward(embedded, &dx, compute, sums.gradients)?;
        sums.backward += begun.elapsed();
        Ok(Behind {
            d_last: d_before,
            d_state,
        })
    }
}
