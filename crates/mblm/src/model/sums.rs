//! Sums over the groups of a decoder's training pass.

use std::time::Duration;

use candle_core::Tensor;

use super::gradients::Gradients;
use super::pass::total;
use super::start::StartGradient;
use crate::Result;

/// Sums over the groups of a pass, or of one of its shards.
pub(super) struct Sums<'g> {
    pub(super) gradients: &'g mut Gradients,
    /// The gradient of each stage's start row.
    pub(super) starts: Vec<StartGradient>,
    /// The loss of each group of rows, on the device.
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

    /// The sum of the losses: the only point where a pass waits for the device.
    pub(super) fn loss(&self) -> Result<f64> {
        total(&self.losses)
    }
}
