//! What a block carries from one position to the next.
//!
//! A [`State`] is a list of slots, each empty (the start: zeros, or no rows yet) or filled with a tensor whose first
//! dimension is the sequences: all n of them, or 1 when all sequences share it. A block documents its slots. The same type
//! serves training (the state after a shared start row, or at the border of a chunk), prefill and decode.

use candle_core::Tensor;

use crate::Result;

/// The state of one block: the position of the next input, and the block's slots.
#[derive(Clone, Debug, Default)]
pub struct State {
    position: usize,
    slots: Vec<Option<Tensor>>,
}

impl State {
    /// The state before the first position, with all slots empty.
    pub fn empty(slots: usize) -> Self {
        Self {
            position: 0,
            slots: vec![None; slots],
        }
    }

    /// A state before `position`, with all slots empty: to be filled with what was there.
    pub fn at(position: usize, slots: usize) -> Self {
        Self {
            position,
            ..Self::empty(slots)
        }
    }

    /// The number of positions that have gone by.
    pub fn position(&self) -> usize {
        self.position
    }

    /// Moves on by `positions`.
    pub fn advance(&mut self, positions: usize) {
        self.position += positions;
    }

    /// The number of slots.
    pub fn slots(&self) -> usize {
        self.slots.len()
    }

    /// The tensor in a slot.
    pub fn get(&self, slot: usize) -> Option<&Tensor> {
        self.slots.get(slot).and_then(Option::as_ref)
    }

    /// Fills a slot.
    pub fn set(&mut self, slot: usize, tensor: Tensor) {
        if slot >= self.slots.len() {
            self.slots.resize(slot + 1, None);
        }
        self.slots[slot] = Some(tensor);
    }

    /// The same state with every tensor mapped.
    pub fn map(&self, mut map: impl FnMut(&Tensor) -> Result<Tensor>) -> Result<Self> {
        let slots = self
            .slots
            .iter()
            .map(|slot| slot.as_ref().map(&mut map).transpose())
            .collect::<Result<_>>()?;
        Ok(Self {
            position: self.position,
            slots,
        })
    }

    /// The same values outside every autograd graph.
    pub fn detach(&self) -> Self {
        Self {
            position: self.position,
            slots: self
                .slots
                .iter()
                .map(|slot| slot.as_ref().map(Tensor::detach))
                .collect(),
        }
    }
}

/// The gradient of a state: one entry a slot, `None` where there is none.
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

    /// Adds another gradient of the same state.
    pub fn add(&mut self, other: Self) -> Result<()> {
        for (slot, gradient) in other.0.into_iter().enumerate() {
            let Some(gradient) = gradient else { continue };
            let sum = match self.get(slot) {
                Some(present) => (present + gradient)?,
                None => gradient,
            };
            self.set(slot, Some(sum));
        }
        Ok(())
    }

    /// Whether no slot has a gradient.
    pub fn is_none(&self) -> bool {
        self.0.iter().all(Option::is_none)
    }
}
