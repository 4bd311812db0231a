//! The interface between the hierarchy and the blocks that make up its stages.
//!
//! A [`StageBlock`] maps (sequences, positions, D) to the same shape, causally, from a [`State`] on. One contract serves
//! everything the hierarchy does:
//!
//! - **whole sequences**: an empty state, all positions at once;
//! - **a shared start row**: every sequence of a stage begins with the same row, so that row runs once, and all sequences
//!   go on from its state (whose tensors then have one sequence where the input has many);
//! - **streaming, prefill and decode**: any number of positions at a time, the state carried along.
//!
//! Training calls [`StageBlock::forward_train`] and [`StageBlock::backward`] explicitly: the hierarchy owns the order of
//! computation and the gradient buffers. A block that only writes [`StageBlock::forward`], in candle's tensor operations on
//! [`Parameter::tracked`](super::Parameter::tracked) tensors, gets both from candle's autograd: the forward pass is then
//! computed a second time during the backward pass.

use std::any::Any;

use candle_core::{Tensor, Var};

use super::compute::Compute;
use super::gradients::Gradients;
use super::parameter::Parameter;
use super::state::State;
use super::state_gradient::StateGradient;
use crate::{Error, Result};

/// A causal map from (sequences, positions, D) to the same shape: what a stage of the hierarchy does with its sequences.
pub trait StageBlock: Send + Sync {
    /// The block's own parameters.
    fn parameters(&self) -> Vec<&Parameter>;

    /// The state before the first position.
    fn initial_state(&self) -> State;

    /// Maps `x` (n, t, D), the t positions from `state` on, to (n, t, D) and moves the state on by t.
    ///
    /// Row i of the result may depend on rows 0…i and on the state. A slot of the state holds n sequences or 1 that all
    /// share; afterwards it holds n. `compute` is for the linear layers of built-in blocks; a block of tensor operations has no
    /// use for it.
    fn forward(&self, x: &Tensor, state: &mut State, compute: &Compute) -> Result<Tensor>;

    /// Whether training draws random numbers. The start row is shared only where it does not.
    fn has_dropout(&self) -> bool {
        false
    }

    /// Whether the block takes rows in bfloat16 where its parameters are float32, as mixed precision on a GPU has them; it gets
    /// float32 otherwise.
    fn takes_half_precision(&self) -> bool {
        false
    }

    /// Whether a step computes all positions before it again, so that it takes the longer the more there are.
    fn recomputes(&self) -> bool {
        false
    }

    /// [`forward`](Self::forward) that also keeps what [`backward`](Self::backward) needs.
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

    /// From the gradients of the result and of the final state to those of `x` and of the state at the beginning; adds the
    /// gradients of the block's parameters to their buffers.
    ///
    /// The gradient of a slot that all sequences shared is summed over the sequences, to the slot's own shape.
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

/// What the default backward pass keeps: the inputs of the forward pass.
struct Recomputed {
    x: Tensor,
    state: State,
}

/// What a block keeps from its forward pass for its backward pass; only the block knows what is inside.
pub struct Saved(Box<dyn Any + Send>);

impl Saved {
    /// Keeps `value`.
    pub fn new<T: Send + 'static>(value: T) -> Self {
        Self(Box::new(value))
    }

    /// Gives back the value that was kept. Fails when it is not a `T`: when it was saved by another kind of block.
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

/// What distinguishes one training pass from another: the seed of its dropout masks and which sequences it holds.
#[derive(Clone, Copy, Debug)]
pub struct Pass {
    /// Seed of this stage's dropout in this optimizer step.
    pub seed: u64,
    /// Index of the first sequence among all sequences of the stage, so that groups of any size draw the same masks.
    pub first_sequence: usize,
    /// Whether the state afterwards is used: otherwise [`forward_train`](StageBlock::forward_train) may leave in it what it likes.
    pub keeps_state: bool,
}

impl Pass {
    /// The key of one dropout of one layer: `place` numbers the dropouts of a layer.
    pub fn key(&self, layer: usize, place: usize) -> u64 {
        let mixed = self.seed ^ ((layer as u64) << 8 | place as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        mixed.wrapping_mul(0xd134_2543_de82_ef95).rotate_left(29)
    }
}
