//! The position of one stream: the state after the ids read so far, and the logits of the next id.

use std::ops::ControlFlow;
use std::path::Path;

use candle_core::{DType, Tensor};

use super::generator::{Generator, GeneratorState};
use crate::{Error, Result};

/// The position of one stream in its text.
#[derive(Clone, Debug)]
pub struct Cursor {
    state: GeneratorState,
    /// (1, V).
    logits: Tensor,
}

impl Cursor {
    /// The position before the first byte.
    ///
    /// # Errors
    /// A failing device.
    pub fn begin(generator: &Generator) -> Result<Self> {
        Ok(Self {
            state: generator.begin(1),
            logits: generator.first_logits(1)?,
        })
    }

    /// Reads a position that [`save`](Self::save) wrote.
    ///
    /// # Errors
    /// Those of [`Generator::load_state`], and a state of several streams.
    pub fn load(generator: &Generator, path: &Path) -> Result<Self> {
        let (state, logits) = generator.load_state(path)?;
        match state.streams() {
            1 => Ok(Self { state, logits }),
            streams => {
                let message = format!("expected the state of one stream, found one of {streams}");
                Err(Error::file(path, message))
            }
        }
    }

    /// Writes the position to a file.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn save(&self, generator: &Generator, path: &Path) -> Result<()> {
        generator.save_state(&self.state, &self.logits, path)
    }

    /// The number of ids read.
    pub fn position(&self) -> usize {
        self.state.position()
    }

    /// The state.
    pub fn state(&self) -> &GeneratorState {
        &self.state
    }

    /// The logits (1, V) of the next id.
    pub fn logits(&self) -> &Tensor {
        &self.logits
    }

    /// Reads `ids`, which may be empty; unchanged on an error.
    ///
    /// # Errors
    /// Those of [`Generator::prefill`].
    pub fn read(&mut self, generator: &Generator, ids: &[u32]) -> Result<()> {
        if !ids.is_empty() {
            self.logits = generator.prefill(&mut self.state, &[ids])?;
        }
        Ok(())
    }

    /// [`read`](Self::read), watched as [`Generator::prefill_watched`] is; `Break` if it was
    /// stopped.
    ///
    /// # Errors
    /// Those of [`Generator::prefill`].
    pub fn read_watched(
        &mut self,
        generator: &Generator,
        ids: &[u32],
        watch: &mut (dyn FnMut(usize) -> ControlFlow<()> + Send),
    ) -> Result<ControlFlow<()>> {
        if ids.is_empty() {
            return Ok(ControlFlow::Continue(()));
        }
        Ok(match generator.prefill_watched(&mut self.state, &[ids], watch)? {
            Some(logits) => {
                self.logits = logits;
                ControlFlow::Continue(())
            }
            None => ControlFlow::Break(()),
        })
    }

    /// Reads one id.
    ///
    /// # Errors
    /// Those of [`Generator::step`].
    pub fn step(&mut self, generator: &Generator, id: u32) -> Result<()> {
        self.logits = generator.step(&mut self.state, &[id])?;
        Ok(())
    }

    /// The logits (V) of the next id, on the host.
    pub(super) fn next(&self) -> Result<Vec<f32>> {
        row(&self.logits, 0)
    }
}

/// The logits (V) of one stream, from the logits (b, V) of all.
pub(super) fn row(logits: &Tensor, stream: usize) -> Result<Vec<f32>> {
    Ok(logits.get(stream)?.to_dtype(DType::F32)?.to_vec1::<f32>()?)
}
