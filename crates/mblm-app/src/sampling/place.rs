//! Where a text is: the state after it, and the logits of what comes next.

use anyhow::Result;
use candle_core::{DType, Tensor};
use mblm::generate::{Generator, GeneratorState};

/// The place of one stream.
#[derive(Clone)]
pub(crate) struct Place {
    pub(crate) state: GeneratorState,
    /// (1, V).
    pub(crate) logits: Tensor,
}

impl Place {
    /// Before the first byte.
    pub(crate) fn begin(generator: &Generator<'_>) -> Result<Self> {
        Ok(Self {
            state: generator.begin(1),
            logits: generator.first_logits(1)?,
        })
    }

    /// Moves on behind `ids`, which may be none; stays on an error.
    pub(crate) fn read(&mut self, generator: &Generator<'_>, ids: &[u32]) -> Result<()> {
        if !ids.is_empty() {
            self.logits = generator.prefill(&mut self.state, &[ids])?;
        }
        Ok(())
    }

    /// Moves on behind one id.
    pub(crate) fn step(&mut self, generator: &Generator<'_>, id: u32) -> Result<()> {
        self.logits = generator.step(&mut self.state, &[id])?;
        Ok(())
    }

    /// The logits (V) of the next id.
    pub(crate) fn next(&self) -> Result<Vec<f32>> {
        row(&self.logits, 0)
    }
}

/// One stream's logits (V) of those (b, V) of all.
pub(crate) fn row(logits: &Tensor, stream: usize) -> Result<Vec<f32>> {
    Ok(logits.get(stream)?.to_dtype(DType::F32)?.to_vec1::<f32>()?)
}
