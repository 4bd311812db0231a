//! One position through all layers and the final norm in one kernel, where it exists: on CUDA.

use candle_core::Tensor;
use mblm_ops::decode;

use super::{ATTENTION_SHIFT, FEED_FORWARD_SHIFT, KEYS_VALUES, Layer, SLOTS, Stack};
use crate::Result;
use crate::model::state::State;

impl Layer {
    /// The parameters as the kernel of [`decode`] takes them.
    fn kernel_argument(&self, x: &Tensor) -> Result<decode::Layer> {
        Ok(decode::Layer {
            attention_gain: self.attention_norm.parameter().value().clone(),
            to_q: self.to_q.weight_for(x)?,
            to_kv: self.to_kv.weight_for(x)?,
            to_out: self.to_out.weight_for(x)?,
            feed_forward_gain: self.feed_forward_norm.parameter().value().clone(),
            inner: self.inner.weight_for(x)?,
            inner_bias: self.inner_bias.value().clone(),
            outer: self.outer.weight_for(x)?,
            outer_bias: self.outer.bias().expect("`outer` is made with a bias").clone(),
        })
    }
}

impl Stack {
    /// Runs one position through all layers and the final norm in one kernel, if it exists.
    /// Elsewhere calling the layers' operations one by one ([`run`](Self::run)) is as fast.
    pub(super) fn step(&self, x: &Tensor, state: &mut State) -> Result<Option<Tensor>> {
        let Some(first) = self.layers.first().filter(|_| self.attention.causal) else {
            return Ok(None);
        };
        let positions = x.dim(1)?;
        let past = state.get(KEYS_VALUES).map_or(Ok(0), |past| past.dim(1))?;
        let inner = first.inner_bias.value().elem_count();
        if positions != 1 || !decode::takes(&self.attention, x, inner, past) {
            return Ok(None);
        }
        self.step_at_once(x, state).map(Some)
    }

    /// Runs one position through all layers and the final norm by [`decode::step`].
    fn step_at_once(&self, x: &Tensor, state: &mut State) -> Result<Tensor> {
        let sequences = x.dim(0)?;
        let layers = self
            .layers
            .iter()
            .map(|layer| layer.kernel_argument(x))
            .collect::<Result<Vec<_>>>()?;
        let slots: Vec<usize> = (0..layers.len()).map(|index| SLOTS * index + KEYS_VALUES).collect();
        let width = 2 * self.attention.heads * self.attention.head_dim;
        let rows = state.next_rows(&slots, (sequences, width), x)?;
        let states: Vec<decode::LayerState> = (rows.iter().enumerate())
            .map(|(index, row)| decode::LayerState {
                attention_shift: state.get(SLOTS * index + ATTENTION_SHIFT).cloned(),
                feed_forward_shift: state.get(SLOTS * index + FEED_FORWARD_SHIFT).cloned(),
                past: row.past.clone(),
                room: row.room().clone(),
                moves: row.moves,
            })
            .collect();
        let gain = self.norm.parameter().value();
        let output = decode::step(&self.attention, &layers, &states, gain, state.position(), x)?;
        for (index, row) in rows.into_iter().enumerate() {
            let shifts = output.shifts.get(index)?;
            state.set(SLOTS * index + ATTENTION_SHIFT, shifts.get(0)?);
            state.set(SLOTS * index + FEED_FORWARD_SHIFT, shifts.get(1)?);
            state.grow(SLOTS * index + KEYS_VALUES, row)?;
        }
        state.advance(1);
        Ok(output.out)
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device};
    use mblm_ops::relative_error;
    use mblm_ops::testing::uniform;

    use super::*;
    use crate::blocks::transformer::keys::Transformer;
    use crate::model::block::StageBlock;
    use crate::model::compute::Compute;
    use crate::model::init::Seeded;
    use crate::model::parameter::Builder;

    /// A step in one kernel gives the results and the state of the layers' operations.
    #[test]
    fn a_step_at_once_is_that_of_the_operations() {
        let builder = Builder::new(&Seeded(1), DType::F64, &Device::Cpu);
        let block = Stack::decoder(&Transformer::new(3, 8), 16, 2, &builder).unwrap();
        let close = |found: &Tensor, expected: &Tensor| {
            let error = relative_error(found, expected, 1e-6).unwrap();
            assert!(error < 1e-12, "{error:.2e}");
        };
        let mut start = block.initial_state();
        block
            .forward(&uniform(&[1, 3, 16], 1).unwrap(), &mut start, &Compute::default())
            .unwrap();
        for before in [block.initial_state(), start] {
            let (mut at_once, mut by_one) = (before.clone(), before);
            for position in 0..3 {
                let x = uniform(&[2, 1, 16], 2 + position).unwrap();
                let found = block.step_at_once(&x, &mut at_once).unwrap();
                close(&found, &block.forward(&x, &mut by_one, &Compute::default()).unwrap());
                assert_eq!(at_once.position(), by_one.position());
                for slot in 0..2 * SLOTS {
                    close(at_once.get(slot).unwrap(), by_one.get(slot).unwrap());
                }
            }
        }
    }
}
