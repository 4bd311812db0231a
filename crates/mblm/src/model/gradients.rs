//! The buffers of the parameters' gradients.
//!
//! A trainer holds one [`Gradients`], to which every pass adds. Passes that run side by side (see
//! [`shards`](super::shards)) add to their own buffers, which are reused by later passes.

use mblm_ops::GradBuffer;
use mblm_ops::cpu::par_map;

use super::parameter::{Parameter, Parameters};
use crate::Result;

/// One gradient buffer for each parameter of a model.
#[derive(Debug)]
pub struct Gradients {
    buffers: Vec<GradBuffer>,
    /// The buffers of the shards of a pass.
    shards: ShardGradients,
}

/// The gradients of all shards but the first, reused by later passes; zero between passes.
#[derive(Debug, Default)]
pub(super) struct ShardGradients(Vec<Gradients>);

impl Gradients {
    /// Buffers of zeros.
    pub fn zeros(parameters: &Parameters) -> Result<Self> {
        let buffers = parameters
            .iter()
            .map(|parameter| GradBuffer::zeros_like(parameter.value()))
            .collect::<candle_core::Result<_>>()?;
        Ok(Self {
            buffers,
            shards: ShardGradients::default(),
        })
    }

    /// The buffer of one parameter.
    pub fn of(&mut self, parameter: &Parameter) -> &mut GradBuffer {
        &mut self.buffers[parameter.index()]
    }

    /// The buffers of several different parameters at once.
    pub fn of_each<const N: usize>(&mut self, parameters: [&Parameter; N]) -> [&mut GradBuffer; N] {
        self.buffers
            .get_disjoint_mut(parameters.map(Parameter::index))
            .expect("a builder gives each of its parameters another index")
    }

    /// The buffers in the order of the parameters.
    pub fn iter(&self) -> std::slice::Iter<'_, GradBuffer> {
        self.buffers.iter()
    }

    /// The buffers in the order of the parameters, to be changed.
    pub(crate) fn iter_mut(&mut self) -> std::slice::IterMut<'_, GradBuffer> {
        self.buffers.iter_mut()
    }

    /// Takes the shards' buffers out, so that they can be added to.
    pub(super) fn take_shards(&mut self) -> ShardGradients {
        std::mem::take(&mut self.shards)
    }

    pub(super) fn keep_shards(&mut self, shards: ShardGradients) {
        self.shards = shards;
    }

    /// Sets every gradient to zero, to begin the next step.
    pub fn clear(&mut self) -> Result<()> {
        let on_cpu = self.buffers.iter().all(|buffer| buffer.tensor().device().is_cpu());
        let cleared = par_map(
            self.buffers.iter_mut().collect(),
            on_cpu,
            |_, buffer: &mut GradBuffer| buffer.clear(),
        );
        Ok(cleared.into_iter().collect::<candle_core::Result<()>>()?)
    }
}

impl ShardGradients {
    /// The buffers of shards 2 to `shards`.
    pub(super) fn of_others(&mut self, shards: usize, parameters: &Parameters) -> Result<&mut [Gradients]> {
        while self.0.len() + 1 < shards {
            self.0.push(Gradients::zeros(parameters)?);
        }
        Ok(&mut self.0[..shards.saturating_sub(1)])
    }

    /// Adds the gradients of all shards to `sums`, in order, and sets them to zero.
    pub(super) fn drain_to(&mut self, sums: &mut Gradients) -> Result<()> {
        self.0.iter_mut().try_for_each(|shard| {
            let buffers: Vec<_> = shard.iter_mut().zip(sums.iter_mut()).collect();
            let drained = par_map(buffers, true, |_, (shard, sum)| shard.drain_to(sum));
            Ok(drained.into_iter().collect::<candle_core::Result<()>>()?)
        })
    }
}
