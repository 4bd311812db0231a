//! Stateful decoding: each stage keeps a state and advances only when one of its patches completes.
//!
//! Bytes arrive one at a time ([`Generator::step`]) or many at once ([`Generator::prefill`]); both
//! leave the same state. After a byte the local stage returns the logits of the next one. When the
//! byte completes a patch of stage n, the patch becomes one position of stage n, whose output is
//! the context of a new sequence of stage n + 1; the stages below begin their first sequence in it
//! from constant start rows. If one byte completes patches of several stages, only the most global
//! of them advances: the last output of a finished sequence feeds nothing.
//!
//! A prompt thus costs one pass of the first stage over its patches, and of the lower stages over
//! its last patch. If the first stage's state does not grow, a byte costs the same at any position.
//!
//! Shapes: b streams at one position; logits (b, V); contexts (b, P_n, D_n) of an open sequence.

use std::sync::Arc;

use candle_core::{DType, Tensor};
use mblm_ops::cpu::on_workers;
use mblm_ops::{cross_entropy, widened};

use crate::model::{Compute, Mblm, State};
use crate::{Error, Result};

/// A model prepared for decoding: constant start rows are computed once, and linear weights are
/// also packed for products with few rows. If the parameters change, create a new generator.
pub struct Generator {
    model: Arc<Mblm>,
    /// The model's numeric settings, with packed weights.
    compute: Compute,
    /// The output (1, 1, D) of the start row of each stage, and the state after it.
    starts: Vec<(Tensor, State)>,
    /// The contexts (1, P_n, D_n) of stage n's first sequence, from the start row of stage n − 1.
    start_contexts: Vec<Option<Tensor>>,
    first_logits: Tensor,
}

/// The stages that a piece of many patches goes through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Through {
    /// The first stage, and the others for the last patch only.
    FirstStage,
    /// All stages, for the loss of every byte.
    AllStages,
}

/// The state of b streams: the open sequence of every stage, and the bytes of the open patch.
#[derive(Clone, Debug)]
pub struct GeneratorState {
    pub(super) position: usize,
    pub(super) streams: usize,
    pub(super) sequences: Vec<OpenSequence>,
    pub(super) patch: Vec<Vec<u32>>,
}

/// The sequence of a stage that the next byte belongs to.
#[derive(Clone, Debug)]
pub(super) struct OpenSequence {
    pub(super) state: State,
    /// The context from the stage above, for all positions of the sequence.
    pub(super) context: Option<Tensor>,
    /// The number of positions computed.
    pub(super) positions: usize,
}

impl OpenSequence {
    fn new(start: &State, context: Option<Tensor>) -> Self {
        Self {
            state: start.clone(),
            context,
            positions: 0,
        }
    }
}

impl GeneratorState {
    /// The number of bytes that each stream has consumed.
    pub fn position(&self) -> usize {
        self.position
    }

    /// The number of streams.
    pub fn streams(&self) -> usize {
        self.streams
    }

    /// Copies the state for `streams` streams: read a prompt once, continue it many times.
    ///
    /// # Errors
    /// This is the state of several streams.
    pub fn fork(&self, streams: usize) -> Result<Self> {
        if self.streams != 1 {
            return Err(Error::input(format!(
                "fork: expected the state of one stream, found one of {}",
                self.streams
            )));
        }
        // slots of one sequence are shared by all streams
        Ok(Self {
            streams,
            patch: vec![self.patch.first().cloned().unwrap_or_default(); streams],
            ..self.clone()
        })
    }

    /// Bytes in the open patch of the first stage.
    pub(super) fn open_patch(&self) -> usize {
        self.patch.first().map_or(0, Vec::len)
    }
}

impl Generator {
    /// Prepares `model` for decoding.
    pub fn new(model: impl Into<Arc<Mblm>>) -> Result<Self> {
        let model = model.into();
        let compute = model.compute().with_packed(model.parameters())?;
        let mut starts = Vec::with_capacity(model.stage_count());
        let mut start_contexts = vec![None];
        for stage in 0..model.stage_count() {
            let (first, state) = model.begin_stage(stage, &compute)?;
            start_contexts.push(model.next_contexts(stage, &first, &compute)?);
            starts.push((first, state));
        }
        start_contexts.truncate(model.stage_count());
        if model.stage_recomputes(0) {
            tracing::warn!(
                "the first stage's block has no decode step, so every patch computes the whole sequence again, and \
                 long texts become slow; implement StageBlock with a state to avoid that"
            );
        }
        let first_logits = model.first_logits()?;
        Ok(Self {
            model,
            compute,
            starts,
            start_contexts,
            first_logits,
        })
    }

    /// The model.
    pub fn model(&self) -> &Arc<Mblm> {
        &self.model
    }

    /// The rows of each growing slot of the first stage's state, after the start row.
    pub(super) fn starts_growing(&self) -> impl Iterator<Item = usize> {
        self.starts.iter().take(1).flat_map(|(_, state)| state.growing_rows())
    }

    /// The numeric settings.
    pub(super) fn compute(&self) -> &Compute {
        &self.compute
    }

    /// The state of `streams` streams before their first byte.
    pub fn begin(&self, streams: usize) -> GeneratorState {
        let sequences = self.starts.iter().zip(&self.start_contexts);
        GeneratorState {
            position: 0,
            streams,
            sequences: sequences
                .map(|((_, state), context)| OpenSequence::new(state, context.clone()))
                .collect(),
            patch: vec![Vec::new(); streams],
        }
    }

    /// Logits (b, V) of the first byte.
    pub fn first_logits(&self, streams: usize) -> Result<Tensor> {
        let logits = self.first_logits.unsqueeze(0)?;
        Ok(logits.broadcast_as((streams, logits.dim(1)?))?.contiguous()?)
    }

    /// Consumes one id of every stream and returns the logits (b, V) of the next one.
    pub fn step(&self, state: &mut GeneratorState, ids: &[u32]) -> Result<Tensor> {
        if ids.len() != state.streams {
            return Err(Error::input(format!(
                "step: expected one id for each of {} streams, found {}",
                state.streams,
                ids.len()
            )));
        }
        self.check(&[ids])?;
        on_workers(|| self.step_checked(state, ids))
    }

    /// Consumes `ids` of one stream and returns the loss of each in nats, given all ids before it.
    /// `logits` (1, V) predict the first id, and are replaced by the logits after the last.
    ///
    /// Whole patches of the first stage go through all stages at once, in pieces of bounded size.
    ///
    /// # Errors
    /// A state of several streams, ids outside the vocabulary, or more than a fixed position table
    /// of the first stage allows; some of the ids may have been consumed then.
    pub fn losses(&self, state: &mut GeneratorState, logits: &mut Tensor, ids: &[u32]) -> Result<Vec<f32>> {
        if state.streams != 1 {
            return Err(Error::input(format!(
                "losses: expected the state of one stream, found one of {}",
                state.streams
            )));
        }
        self.check(&[ids])?;
        on_workers(|| self.losses_checked(state, logits, ids))
    }

    fn losses_checked(&self, state: &mut GeneratorState, logits: &mut Tensor, ids: &[u32]) -> Result<Vec<f32>> {
        let bytes = self.model.stage_bytes(0);
        let mut losses = Vec::with_capacity(ids.len());
        let mut rest = ids;
        while let Some((first, after)) = rest.split_first() {
            let patches = (rest.len() / bytes).min(self.patches_at_once(state, Through::AllStages));
            if state.open_patch() == 0 && patches > 0 {
                let (piece, after) = rest.split_at(patches * bytes);
                losses.extend(self.piece_losses(state, logits, piece)?);
                rest = after;
            } else {
                losses.extend(losses_of(logits, &[*first])?);
                *logits = self.step_checked(state, &[*first])?;
                rest = after;
            }
        }
        Ok(losses)
    }

    /// [`losses`](Self::losses) of whole patches of the first stage; no patch may be open.
    fn piece_losses(&self, state: &mut GeneratorState, logits: &mut Tensor, ids: &[u32]) -> Result<Vec<f32>> {
        let patches = ids.len() / self.model.stage_bytes(0);
        let y = self.run(state, 0, ids.to_vec(), patches)?; // (1, t, D)
        let mut losses = losses_of(logits, &ids[..1])?;
        let mut visit = |first: usize, rows: Tensor| -> Result<()> {
            let next = self.model.logits_of(&rows, &self.compute)?; // (rows, V): row j predicts id first + j + 1
            let count = next.dim(0)?;
            let known = count.min(ids.len() - 1 - first);
            losses.extend(losses_of(&next.narrow(0, 0, known)?, &ids[first + 1..][..known])?);
            *logits = next.narrow(0, count - 1, 1)?;
            Ok(())
        };
        if self.starts.len() == 1 {
            visit(0, y.squeeze(0)?)?;
        } else {
            let mut contexts = state.sequences[1].context.iter().cloned().collect::<Vec<_>>(); // (1, P, D) of the first patch
            if patches > 1 {
                let before = y.narrow(1, 0, patches - 1)?.squeeze(0)?.unsqueeze(1)?; // (t - 1, 1, D)
                contexts.extend(self.model.next_contexts(0, &before, &self.compute)?);
            }
            let contexts = Tensor::cat(&contexts, 0)?; // (t, P, D)
            self.model
                .rows_below(ids, &contexts, &self.starts, &self.compute, &mut visit)?;
            self.open(state, 1, &y.narrow(1, patches - 1, 1)?)?;
        }
        state.position += ids.len();
        Ok(losses)
    }

    pub(super) fn check(&self, ids: &[&[u32]]) -> Result<()> {
        let tokens = self.model.config().num_tokens;
        match ids.iter().flat_map(|ids| ids.iter()).find(|id| **id as usize >= tokens) {
            Some(id) => Err(Error::input(format!(
                "id {id} is outside the model's vocabulary of {tokens} (0 to {})",
                tokens - 1
            ))),
            None => Ok(()),
        }
    }

    /// Runs positions of the open sequence of a stage: ids (b, t, p) → outputs (b, t, D).
    fn run(&self, state: &mut GeneratorState, stage: usize, ids: Vec<u32>, patches: usize) -> Result<Tensor> {
        let streams = state.streams;
        self.run_open(&mut state.sequences[stage], stage, ids, streams, patches)
    }

    /// [`run`](Self::run) for an open sequence outside a state.
    pub(super) fn run_open(
        &self,
        open: &mut OpenSequence,
        stage: usize,
        ids: Vec<u32>,
        streams: usize,
        patches: usize,
    ) -> Result<Tensor> {
        let bytes = self.model.stage_bytes(stage);
        let ids = Tensor::from_vec(ids, (streams, patches, bytes), self.model.device())?;
        let start = open.positions;
        let context = match &open.context {
            Some(context) => Some(context.narrow(1, start, patches)?),
            None => None,
        };
        open.positions += patches;
        self.model
            .run_stage(stage, &ids, start, context.as_ref(), &mut open.state, &self.compute)
    }

    /// Begins a sequence of `stage` with contexts from `output` (b, 1, D) of the stage above, and
    /// the first sequence of every stage below.
    pub(super) fn open(&self, state: &mut GeneratorState, stage: usize, output: &Tensor) -> Result<()> {
        for below in stage..self.starts.len() {
            let context = if below == stage {
                self.model.next_contexts(stage - 1, output, &self.compute)?
            } else {
                self.start_contexts[below].clone()
            };
            state.sequences[below] = OpenSequence::new(&self.starts[below].1, context);
        }
        Ok(())
    }

    /// Consumes ids without computing logits: a completed patch runs through its own stage only.
    pub(super) fn advance(&self, state: &mut GeneratorState, ids: &[&[u32]]) -> Result<()> {
        let count = ids.first().map_or(0, |ids| ids.len());
        let stages = self.starts.len();
        let mut done = 0; // new ids inside complete patches of the stages above
        let mut first_stage = 0; // the same for the first stage alone
        for stage in 0..stages {
            let bytes = self.model.stage_bytes(stage);
            // ids of earlier calls that begin the open patch of this stage
            let pending = if done == 0 { state.open_patch() % bytes } else { 0 };
            let patches = (pending + count - done) / bytes;
            if patches == 0 {
                continue;
            }
            let take = patches * bytes - pending;
            let mut tokens = Vec::with_capacity(state.streams * patches * bytes);
            for (patch, ids) in state.patch.iter().zip(ids) {
                tokens.extend_from_slice(&patch[patch.len() - pending..]);
                tokens.extend_from_slice(&ids[done..done + take]);
            }
            let y = self.run(state, stage, tokens, patches)?;
            done += take;
            if stage == 0 {
                first_stage = done;
            }
            if stage + 1 < stages {
                self.open(state, stage + 1, &y.narrow(1, patches - 1, 1)?)?;
            }
        }
        for (patch, ids) in state.patch.iter_mut().zip(ids) {
            if first_stage > 0 {
                patch.clear();
            }
            patch.extend_from_slice(&ids[first_stage..]);
        }
        state.position += count;
        Ok(())
    }

    pub(super) fn step_checked(&self, state: &mut GeneratorState, ids: &[u32]) -> Result<Tensor> {
        let local = self.starts.len() - 1;
        let y = self.run(state, local, ids.to_vec(), 1)?;
        let logits = self.model.logits_of(&y, &self.compute)?.squeeze(1)?; // (b, V)
        state.position += 1;
        for (patch, id) in state.patch.iter_mut().zip(ids) {
            patch.push(*id);
        }
        if let Some(stage) = self.completed_stage(state) {
            let (open, bytes) = (state.open_patch(), self.model.stage_bytes(stage));
            let patches = state.patch.iter().flat_map(|patch| &patch[open - bytes..]);
            let tokens = patches.copied().collect();
            let y = self.run(state, stage, tokens, 1)?;
            self.open(state, stage + 1, &y)?;
        }
        self.close_patch(state);
        Ok(logits)
    }

    /// The stage that the last id advances: the most global stage with a completed patch.
    pub(super) fn completed_stage(&self, state: &GeneratorState) -> Option<usize> {
        let (local, open) = (self.starts.len() - 1, state.open_patch());
        (0..local).find(|stage| open.is_multiple_of(self.model.stage_bytes(*stage)))
    }

    /// Drops the ids of the first stage's patch once it is complete.
    pub(super) fn close_patch(&self, state: &mut GeneratorState) {
        if state.open_patch() == self.model.stage_bytes(0) {
            state.patch.iter_mut().for_each(Vec::clear);
        }
    }
}

/// The loss of each id, from the logits (ids, V) that predict it.
fn losses_of(logits: &Tensor, ids: &[u32]) -> Result<Vec<f32>> {
    if ids.is_empty() {
        return Ok(Vec::new());
    }
    let targets = Tensor::from_slice(ids, ids.len(), logits.device())?;
    let losses = cross_entropy::losses(&widened(logits)?.contiguous()?, &targets)?;
    Ok(losses.to_dtype(DType::F32)?.to_vec1()?)
}
