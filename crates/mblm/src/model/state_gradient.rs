//! The gradient of a block's state, from the positions after it.

use candle_core::Tensor;
use mblm_ops::widened;

use super::state::State;
use crate::Result;

/// The gradient of a state: one entry per slot, `None` if there is none.
#[derive(Clone, Debug, Default)]
pub struct StateGradient(Vec<Option<Tensor>>);

impl StateGradient {
    /// No gradient for any slot.
    pub fn none() -> Self {
        Self::default()
    }

    /// The gradient of a slot.
    pub fn get(&self, slot: usize) -> Option<&Tensor> {
        self.0.get(slot).and_then(Option::as_ref)
    }

    /// Sets the gradient of a slot.
    pub fn set(&mut self, slot: usize, gradient: Option<Tensor>) {
        if slot >= self.0.len() {
            self.0.resize(slot + 1, None);
        }
        self.0[slot] = gradient;
    }

    /// Adds another gradient of the same state; sums are at least `f32`.
    pub fn add(&mut self, other: Self) -> Result<()> {
        for (slot, gradient) in other.0.into_iter().enumerate() {
            let Some(gradient) = gradient else { continue };
            let sum = match self.get(slot) {
                Some(present) => (present + widened(&gradient)?)?,
                None => widened(&gradient)?,
            };
            self.set(slot, Some(sum));
        }
        Ok(())
    }

    /// The same gradient, each slot in the type of that slot of `state`.
    pub(super) fn in_types_of(&self, state: &State) -> Result<Self> {
        let mut typed = Self::none();
        for (slot, gradient) in self.0.iter().enumerate() {
            let typed_gradient = match (gradient, state.get(slot)) {
                (Some(gradient), Some(tensor)) => Some(gradient.to_dtype(tensor.dtype())?),
                (gradient, _) => gradient.clone(),
            };
            typed.set(slot, typed_gradient);
        }
        Ok(typed)
    }

    /// Whether no slot has a gradient.
    pub fn is_none(&self) -> bool {
        self.0.iter().all(Option::is_none)
    }
}
