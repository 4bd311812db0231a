//! The start row of a stage in a training pass.
//!
//! A start token has no context and blocks are causal: its row is equal for all sequences of a
//! stage. It runs once per pass, all sequences continue from its state, and the gradients of its
//! output and state are summed before its backward pass. With dropout, each sequence runs its own
//! start row.

use candle_core::Tensor;
use mblm_ops::device::sum_sequences;

use super::state::State;
use super::state_gradient::StateGradient;
use crate::Result;

/// The start row of a stage, run once for all its sequences.
pub(super) struct Start {
    /// The output (1, 1, D).
    pub(super) y: Tensor,
    pub(super) state: State,
}

/// The gradients of a start row, summed over all sequences.
#[derive(Default)]
pub(super) struct StartGradient {
    pub(super) d_y: Option<Tensor>,
    pub(super) d_state: StateGradient,
}

impl StartGradient {
    /// Adds gradients of the output (n, 1, D), if any, and of the state.
    pub(super) fn add(&mut self, d_y: Option<&Tensor>, d_state: StateGradient) -> Result<()> {
        self.d_state.add(d_state)?;
        let Some(d_y) = d_y else { return Ok(()) };
        let d_y = sum_sequences(d_y)?;
        self.d_y = Some(match self.d_y.take() {
            Some(sum) => (sum + d_y)?,
            None => d_y,
        });
        Ok(())
    }
}
