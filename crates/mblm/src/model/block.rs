//! The interface between the hierarchy and the blocks that make up its stages.
//!
//! A [`StageBlock`] maps (sequences, positions, D) to the same shape, causally, starting from a
//! [`State`]. One contract serves everything the hierarchy does:
//!
//! - **whole sequences**: an empty state, all positions at once;
//! - **a shared start row**: every sequence of a stage begins with the same row. That row runs
//!   once, and all sequences continue from its state (whose tensors then have one sequence where
//!   the input has many);
//! - **streaming, prefill and decode**: any number of positions at a time, with the state carried
//!   along.
//!
//! Training calls [`StageBlock::forward_train`] and [`StageBlock::backward`] explicitly: the
//! hierarchy owns the order of computation and the gradient buffers. A block that implements only
//! [`StageBlock::forward`], with candle's operations on
//! [`Parameter::tracked`](super::Parameter::tracked) tensors, gets both from candle's autograd,
//! which computes the forward pass a second time during the backward pass.

use std::any::Any;

use candle_core::{Tensor, Var};

use super::compute::Compute;
use super::gradients::Gradients;
use super::parameter::Parameter;
use super::state::State;
use super::state_gradient::StateGradient;
use crate::{Error, Result};

/// A causal map from (sequences, positions, D) to the same shape: the computation of one stage.
pub trait StageBlock: Send + Sync {
    /// The block's own parameters.
    fn parameters(&self) -> Vec<&Parameter>;

    /// The state before the first position.
    fn initial_state(&self) -> State;

    /// Maps `x` (n, t, D), the t positions after `state`, to (n, t, D) and advances the state by t.
    ///
    /// Row i of the result may depend on rows 0…i and on the state. A slot of the state holds n
    /// sequences, or 1 that all share; afterwards it holds n. `compute` configures the linear
    /// layers of built-in blocks; a block of tensor operations ignores it.
    fn forward(&self, x: &Tensor, state: &mut State, compute: &Compute) -> Result<Tensor>;

    /// Whether training draws random numbers. If so, the start row is not shared.
    fn has_dropout(&self) -> bool {
        false
    }

    /// Whether the block accepts bfloat16 rows with float32 parameters (mixed precision on a GPU).
    fn takes_half_precision(&self) -> bool {
        false
    }

    /// Whether each step recomputes all earlier positions, so that its cost grows with them.
    fn recomputes(&self) -> bool {
        false
    }

    /// [`forward`](Self::forward) that also returns what [`backward`](Self::backward) needs.
    fn forward_train(&self, x: &Tensor, state: &mut State, pass: &Pass, compute: &Compute) -> Result<(Tensor, Saved)> {
        let _ = pass;
        let inputs = Recomputed {
            x: x.detach(),
            state: state.detach(),
        };
        let y = self.forward(&inputs.x, state, compute)?.detach();
        *state = state.detach();
        Ok((y, Saved::new(inputs)))
    }

    /// Returns the gradients of `x` and of the initial state, given the gradients of the result and
    /// of the final state. Adds the gradients of the block's parameters to their buffers.
    ///
    /// The gradient of a slot that all sequences shared is summed over the sequences, to the slot's
    /// own shape.
    fn backward(
        &self,
        saved: Saved,
        dy: &Tensor,
        d_state: &StateGradient,
        compute: &Compute,
        gradients: &mut Gradients,
    ) -> Result<(Tensor, StateGradient)> {
        let inputs = saved.take::<Recomputed>()?;
        let x = Var::from_tensor(&inputs.x)?;
        let mut variables = Vec::new();
        let mut state = inputs.state.map(|tensor| {
            let variable = Var::from_tensor(tensor)?;
            variables.push(variable.clone());
            Ok(variable.as_tensor().clone())
        })?;
        let begin = state.clone();
        let y = self.forward(x.as_tensor(), &mut state, compute)?;
        let mut objective = (y * dy)?.sum_all()?;
        for slot in 0..state.slots() {
            if let (Some(last), Some(gradient)) = (state.get(slot), d_state.get(slot)) {
                objective = (objective + (last * gradient)?.sum_all()?)?;
            }
        }
        let mut store = objective.backward()?;
        for parameter in self.parameters() {
            if let Some(gradient) = store.remove(parameter.tracked()) {
                gradients.of(parameter).add(&gradient)?;
            }
        }
        let mut d_begin = StateGradient::none();
        for slot in 0..begin.slots() {
            let gradient = begin.get(slot).and_then(|tensor| store.remove(tensor));
            d_begin.set(slot, gradient.map(|gradient| gradient.detach()));
        }
        let dx = match store.remove(x.as_tensor()) {
            Some(dx) => dx.detach(),
            None => x.zeros_like()?,
        };
        Ok((dx, d_begin))
    }
}

/// Saved by the default forward pass: its inputs.
struct Recomputed {
    x: Tensor,
    state: State,
}

/// Data that a block saves in its forward pass for its backward pass, opaque to the hierarchy.
pub struct Saved(Box<dyn Any + Send>);

impl Saved {
    /// Saves `value`.
    pub fn new<T: Send + 'static>(value: T) -> Self {
        Self(Box::new(value))
    }

    /// Returns the saved value. Fails if it is not a `T`: another kind of block saved it.
    pub fn take<T: 'static>(self) -> Result<T> {
        match self.0.downcast::<T>() {
            Ok(value) => Ok(*value),
            Err(_) => Err(Error::input(format!(
                "backward: expected the values that forward_train saved ({}), found those of another block",
                std::any::type_name::<T>()
            ))),
        }
    }
}

/// The settings of one training pass of a block: dropout seed and sequence numbers.
#[derive(Clone, Copy, Debug)]
pub struct Pass {
    /// Seed of this stage's dropout in this optimizer step.
    pub seed: u64,
    /// Index of the first sequence in the stage: groups of any size draw the same masks.
    pub first_sequence: usize,
    /// Whether the final state is used. If not, the block may leave anything in it.
    pub keeps_state: bool,
}

impl Pass {
    /// The key of one dropout of one layer: `place` numbers the dropouts of a layer.
    pub fn key(&self, layer: usize, place: usize) -> u64 {
        let mixed = self.seed ^ ((layer as u64) << 8 | place as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        mixed.wrapping_mul(0xd134_2543_de82_ef95).rotate_left(29)
    }
}
