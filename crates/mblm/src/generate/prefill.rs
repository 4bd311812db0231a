//! Reading a prompt: many ids at once, in pieces of whole patches.
//!
//! A piece bounds the memory that reading takes, and on the CPU also the time until somebody who watches can end it. Its length is a
//! function of the model and of the position alone, so that the same prompt gives the same bits: as many patches as take about
//! [`PIECE_FLOPS`] operations, n patches at position t of a stage with W weights taking
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

/// The fewest, as long as there are so many: fewer rows read the weights for too little.
const MIN_PATCHES: usize = 16;

/// Operations of a piece on the CPU: some tenths of a second on a few cores.
const PIECE_FLOPS: f64 = 20e9;

impl Generator {
    /// Consumes the same number of ids of every stream and returns the logits (b, V) of the next one.
    ///
    /// Fails for streams of unequal length, without any id, outside the vocabulary, or longer than a fixed position table of
    /// the first stage allows; the state is then as it was before.
    pub fn prefill(&self, state: &mut GeneratorState, ids: &[&[u32]]) -> Result<Tensor> {
        let logits = self.prefill_watched(state, ids, &mut |_| ControlFlow::Continue(()))?;
        logits.ok_or_else(|| Error::input("prefill: ended before its end, though nobody asked for that"))
    }

    /// The same, watched: `watch` is told again and again how many ids of each stream have been read, and says whether to go on.
    /// `None` where it says no; the state is then as it was before.
    ///
    /// # Errors
    /// As [`prefill`](Self::prefill).
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
        // the last id goes through `step`, which gives the logits
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

    /// About how many floating-point operations it takes to read the ids `from` to `to` of one stream, without the stages below the
    /// first, which see only the last patch. Grows with the square of the length where a state grows with the positions.
    pub fn prefill_flops(&self, from: usize, to: usize) -> f64 {
        let (weights, dim, patch) = self.first_stage();
        let (from, to) = (from as f64 / patch as f64, to as f64 / patch as f64);
        let growing = self.starts_growing().count() as f64;
        2.0 * weights * (to - from) + growing * dim * (to * to - from * from)
    }

    /// Whether a byte takes the longer to read the more have been read before it.
    pub fn prefill_is_quadratic(&self) -> bool {
        self.starts_growing().next().is_some()
    }

    /// Weights of the first stage, its width, and bytes of its patches.
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

    /// Patches of the first stage that go through the model at once from this state on.
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
