//! What the groups of a decoder's training pass add up.

use std::time::Duration;

use candle_core::Tensor;

use super::gradients::Gradients;
use super::pass::total;
use super::start::StartGradient;
use crate::Result;

/// What the groups of a pass, or of one of its shards, add up.
pub(super) struct Sums<'g> {
    pub(super) gradients: &'g mut Gradients,
    /// Of the start row of each stage.
    pub(super) starts: Vec<StartGradient>,
    /// Of each group of rows, on the device.
    pub(super) losses: Vec<Tensor>,
    /// Time spent in backward passes.
    pub(super) backward: Duration,
}

impl<'g> Sums<'g> {
    pub(super) fn new(stages: usize, gradients: &'g mut Gradients) -> Self {
        Self {
            gradients,
            starts: (0..stages).map(|_| StartGradient::default()).collect(),
            losses: Vec::new(),
            backward: Duration::ZERO,
        }
    }

    /// The sum of losses that the device has computed, which is the one thing that a pass waits for.
    pub(super) fn loss(&self) -> Result<f64> {
        total(&self.losses)
    }
}
