//! Reading a prompt: many ids at once, in pieces of whole patches.
//!
//! A piece bounds the memory of reading and, on the CPU, the delay of an interrupt. Its length
//! depends on model and position alone, so the same prompt gives the same bits. A piece takes about
//! [`PIECE_FLOPS`] operations; n patches at position t of a stage with W weights take
//!
//! ```text
//! n · (2·W + Σ 4·t·D over the layers whose state grows with t)
//! ```

use std::ops::ControlFlow;

use candle_core::Tensor;

use super::generator::{Generator, GeneratorState, Through};
use crate::config::Architecture;
use crate::on_workers;
use crate::{Error, Result};

/// The most patches of the first stage in a piece.
const MAX_PATCHES: usize = 1024;

/// The fewest, if there are that many: with fewer rows, reading the weights dominates.
const MIN_PATCHES: usize = 16;

/// Operations of a piece on the CPU: some tenths of a second on a few cores.
const PIECE_FLOPS: f64 = 20e9;

impl Generator {
    /// Consumes equally many ids of every stream and returns the logits (b, V) of the next one.
    ///
    /// Fails for streams of unequal length, no ids, ids outside the vocabulary, or more than a
    /// fixed position table of the first stage allows; the state is unchanged then.
    pub fn prefill(&self, state: &mut GeneratorState, ids: &[&[u32]]) -> Result<Tensor> {
        let logits = self.prefill_watched(state, ids, &mut |_| ControlFlow::Continue(()))?;
        logits.ok_or_else(|| Error::input("prefill: stopped early without a request to stop"))
    }

    /// [`prefill`](Self::prefill) with a watch, which gets the number of ids read per stream and
    /// decides whether to continue. Returns `None` if it stops; the state is unchanged then.
    ///
    /// # Errors
    /// Those of [`prefill`](Self::prefill).
    pub fn prefill_watched(
        &self,
        state: &mut GeneratorState,
        ids: &[&[u32]],
        watch: &mut (dyn FnMut(usize) -> ControlFlow<()> + Send),
    ) -> Result<Option<Tensor>> {
        let len = ids.first().map_or(0, |ids| ids.len());
        if ids.len() != state.streams || ids.iter().any(|ids| ids.len() != len) || len == 0 {
            return Err(Error::input(format!(
                "prefill: expected {} streams of the same number of ids, at least one; found lengths {:?}",
                state.streams,
                ids.iter().map(|ids| ids.len()).collect::<Vec<_>>()
            )));
        }
        self.check(ids)?;
        on_workers(|| self.prefill_checked(state, ids, watch))
    }

    fn prefill_checked(
        &self,
        state: &mut GeneratorState,
        ids: &[&[u32]],
        watch: &mut dyn FnMut(usize) -> ControlFlow<()>,
    ) -> Result<Option<Tensor>> {
        let len = ids.first().map_or(0, |ids| ids.len());
        let mut next = state.clone();
        let mut from = 0;
        // the last id goes through `step`, which returns the logits
        while from < len - 1 {
            let piece = self.patches_at_once(&next, Through::FirstStage) * self.model().stage_bytes(0);
            let to = (from + piece).min(len - 1);
            let piece: Vec<&[u32]> = ids.iter().map(|ids| &ids[from..to]).collect();
            self.advance(&mut next, &piece)?;
            from = to;
            if watch(from).is_break() {
                return Ok(None);
            }
        }
        for open in &mut next.sequences {
            open.state.reserve()?;
        }
        let last: Vec<u32> = ids.iter().map(|ids| ids[len - 1]).collect();
        let logits = self.step_checked(&mut next, &last)?;
        *state = next;
        Ok(Some(logits))
    }

    /// The approximate floating-point operations to read ids `from` to `to` of one stream, without
    /// the lower stages, which read only the last patch. Quadratic in the length if a state grows.
    pub fn prefill_flops(&self, from: usize, to: usize) -> f64 {
        let (weights, dim, patch) = self.first_stage();
        let (from, to) = (from as f64 / patch as f64, to as f64 / patch as f64);
        let growing = self.starts_growing().count() as f64;
        2.0 * weights * (to - from) + growing * dim * (to * to - from * from)
    }

    /// Whether the cost of a byte grows with the number of bytes read before it.
    pub fn prefill_is_quadratic(&self) -> bool {
        self.starts_growing().next().is_some()
    }

    /// Weights and width of the first stage, and bytes of its patches.
    fn first_stage(&self) -> (f64, f64, usize) {
        let config = self.model().config();
        let weights = config
            .parameter_counts()
            .per_stage
            .first()
            .map_or(0.0, |count| *count as f64);
        let dim = config.hidden_dims.first().copied().unwrap_or(0) as f64;
        (weights, dim, self.model().stage_bytes(0))
    }

    /// The first-stage patches that go through the model at once from this state.
    pub(super) fn patches_at_once(&self, state: &GeneratorState, through: Through) -> usize {
        let model = self.model();
        if !model.device().is_cpu() {
            return MAX_PATCHES;
        }
        let (first, dim, bytes) = self.first_stage();
        let weights = match through {
            Through::FirstStage => first,
            Through::AllStages => {
                let architecture = Architecture::Decoder(model.config().clone());
                architecture.multiplications_per_byte().unwrap_or(first) * bytes as f64
            }
        };
        // keys and values are two slots of a layer: 4·t·D operations
        let open = &state.sequences[0];
        let grown: f64 = open.state.growing_rows().map(|rows| 2.0 * rows as f64 * dim).sum();
        let patch = state.streams as f64 * (2.0 * weights + grown);
        ((PIECE_FLOPS / patch.max(1.0)) as usize).clamp(MIN_PATCHES, MAX_PATCHES)
    }
}
