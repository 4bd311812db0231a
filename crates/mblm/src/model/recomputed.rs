//! Blocks that compute whole sequences only.
//!
//! A custom block without a step function can still stream and decode: its state is its input so
//! far, and each call recomputes all of it. Inside a patch this is cheap; as a first stage it costs
//! the whole sequence for every patch, which [`StageBlock::recomputes`] reports.

use candle_core::Tensor;

use super::block::StageBlock;
use super::compute::Compute;
use super::parameter::Parameter;
use super::state::State;
use crate::Result;

/// A causal map over whole sequences, in candle's operations on [`tracked`](Parameter::tracked)
/// parameters.
pub trait SequenceBlock: Send + Sync {
    /// The block's own parameters.
    fn parameters(&self) -> Vec<&Parameter>;

    /// Maps whole sequences `x` (n, t, D) to the same shape; result row i depends on rows 0…i
    /// alone.
    fn forward(&self, x: &Tensor) -> Result<Tensor>;
}

/// A [`SequenceBlock`] as a [`StageBlock`]. One slot of state: all rows so far (n, s, D).
pub struct Recomputed<B>(pub B);

const INPUT: usize = 0;

impl<B: SequenceBlock> StageBlock for Recomputed<B> {
    fn parameters(&self) -> Vec<&Parameter> {
        self.0.parameters()
    }

    fn initial_state(&self) -> State {
        State::empty(1)
    }

    fn forward(&self, x: &Tensor, state: &mut State, _compute: &Compute) -> Result<Tensor> {
        let (sequences, positions, width) = x.dims3()?;
        let all = match state.get(INPUT) {
            Some(past) => {
                let past = past.broadcast_as((sequences, past.dim(1)?, width))?;
                Tensor::cat(&[&past, x], 1)? // (n, s + t, D)
            }
            None => x.clone(),
        };
        let y = self.0.forward(&all)?;
        state.advance(positions);
        let y = y.narrow(1, all.dim(1)? - positions, positions)?.contiguous()?;
        state.set(INPUT, all);
        Ok(y)
    }

    fn recomputes(&self) -> bool {
        true
    }
}
