//! Evaluation of whole sequences by a decoder, without gradients: hidden states, logits, losses.
//!
//! A long first stage goes in chunks of positions, with the state carried along. Everything below a
//! chunk is computed before the next chunk, so memory does not grow with the length.

use candle_core::{DType, Device, Tensor};
use mblm_ops::cross_entropy;
use mblm_ops::device::rows_at_once;
use mblm_ops::widened;

use super::compute::Compute;
use super::decoder::Mblm;
use super::ids::{Ids, PaddedIds, Targets};
use super::pass::Loss;
use super::stage::{Outputs, Stage};
use super::state::State;
use super::traverse::{Group, Look, Walk};
use crate::{Error, Result};

/// The source of each stage's embedded tokens.
enum Tokens<'a> {
    Ids(&'a PaddedIds),
    /// One tensor (sequences, positions, D_n) per stage.
    Embedded(Vec<Tensor>),
}

/// Receives consecutive rows (rows, D_N) of the local stage, and the number of the first.
type Visit<'s> = &'s mut dyn FnMut(usize, Tensor) -> Result<()>;

/// The evaluation visitor.
struct Evaluation<'a> {
    model: &'a Mblm,
    walk: Walk,
    tokens: Tokens<'a>,
    /// The output of each stage's start row, and the state after it.
    starts: &'a [(Tensor, State)],
    compute: &'a Compute,
}

impl Mblm {
    /// Returns the logits (B, L, V) of ids (B, L); row j predicts byte j + 1.
    ///
    /// # Errors
    /// Ids outside the vocabulary, or more than a fixed position table of the first stage allows.
    pub fn logits<'a>(&self, ids: impl Into<Ids<'a>>) -> Result<Tensor> {
        self.to_logits.forward(&self.hidden_states(ids)?, &self.compute)
    }

    /// Returns the outputs of the local stage (B, L, D_N), before the logits layer.
    ///
    /// # Errors
    /// Those of [`logits`](Self::logits).
    pub fn hidden_states<'a>(&self, ids: impl Into<Ids<'a>>) -> Result<Tensor> {
        let ids = self.checked(ids.into())?;
        let local_dim = self.local().dim;
        if ids.batch == 0 || ids.len == 0 {
            let shape = (ids.batch, ids.len, local_dim);
            return Ok(Tensor::zeros(shape, self.dtype(), self.device())?);
        }
        let rows = self.all_rows(Tokens::Ids(&ids), ids.batch)?;
        Ok(rows
            .reshape((ids.batch, ids.padded, local_dim))?
            .narrow(1, 0, ids.len)?)
    }

    /// Logits (V) of the first byte, which no input precedes.
    pub fn first_logits(&self) -> Result<Tensor> {
        let (first, _) = self.local().begin(&self.compute)?;
        Ok(self.to_logits.forward(&first, &self.compute)?.flatten_all()?)
    }

    /// Returns the loss in nats of each byte (B, L) given the bytes before it; no mask applies.
    ///
    /// # Errors
    /// Those of [`logits`](Self::logits).
    pub fn losses<'a>(&self, ids: impl Into<Ids<'a>>) -> Result<Tensor> {
        self.losses_of(&self.checked(ids.into())?)
    }

    fn losses_of(&self, ids: &PaddedIds) -> Result<Tensor> {
        if ids.batch == 0 || ids.len == 0 {
            return Ok(Tensor::zeros((ids.batch, ids.len), self.dtype(), self.device())?);
        }
        let first_logits = self.first_logits()?.unsqueeze(0)?; // (1, V)
        let mut pieces = Vec::new();
        self.evaluate(Tokens::Ids(ids), ids.batch, &mut |first, rows| {
            let count = rows.dim(0)?;
            let targets: Vec<u32> = (first..first + count)
                .map(|row| ids.host.get(row + 1).copied().unwrap_or(self.config.pad_token_id))
                .collect();
            let targets = Tensor::from_vec(targets, count, self.device())?;
            let logits = self.to_logits.forward(&rows, &self.compute)?;
            pieces.push(cross_entropy::losses(&widened(&logits)?, &targets)?);
            Ok(())
        })?;
        let losses = Tensor::cat(&pieces, 0)?.reshape((ids.batch, ids.padded))?;
        let firsts: Vec<u32> = ids.host.iter().step_by(ids.padded).copied().collect();
        let firsts = Tensor::from_vec(firsts, ids.batch, self.device())?;
        let first_logits = first_logits
            .broadcast_as((ids.batch, self.config.num_tokens))?
            .contiguous()?;
        let first_losses = cross_entropy::losses(&widened(&first_logits)?, &firsts)?.unsqueeze(1)?; // (B, 1)
        Ok(Tensor::cat(&[&first_losses, &losses.narrow(1, 0, ids.len - 1)?], 1)?)
    }

    /// Returns the loss of ids (B, L) with weights `mask`, one for each id, without gradients.
    ///
    /// # Errors
    /// Those of [`logits`](Self::logits); a mask of another length than the ids.
    pub fn loss<'a>(&self, ids: impl Into<Ids<'a>>, mask: Option<&[f32]>) -> Result<Loss> {
        let ids = self.checked(ids.into())?;
        let targets = Targets::new(&self.config, &ids, mask)?;
        let losses: Vec<f32> = self.losses_of(&ids)?.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?;
        let mut sum = 0.0;
        for (sample, losses) in losses.chunks(ids.len.max(1)).enumerate() {
            let weights = &targets.weights[sample * ids.padded..];
            let weights = std::iter::once(&targets.first[sample].1).chain(weights);
            // an id of weight 0 does not count, even if its loss is not finite
            let counted = losses.iter().zip(weights).filter(|(_, weight)| **weight != 0.0);
            sum += counted
                .map(|(loss, weight)| f64::from(*loss) * f64::from(*weight))
                .sum::<f64>();
        }
        Ok(Loss::of_sum(sum, targets.count))
    }

    /// Returns the embedded tokens without positions, one tensor (B, P1', P_2, …, P_n, D_n) per
    /// stage, the most global first.
    ///
    /// # Errors
    /// Those of [`logits`](Self::logits).
    pub fn embed<'a>(&self, ids: impl Into<Ids<'a>>) -> Result<Vec<Tensor>> {
        let ids = self.checked(ids.into())?;
        let mut dims = vec![ids.batch, ids.padded / self.stages[0].bytes];
        let mut embedded = Vec::with_capacity(self.stages.len());
        for (index, stage) in self.stages.iter().enumerate() {
            if index > 0 {
                dims.push(stage.positions);
            }
            let positions = dims[dims.len() - 1];
            let sequences = dims[..dims.len() - 1].iter().product();
            let ids = ids.sequences(0, sequences, positions, stage.bytes)?;
            let tokens = stage.embedding.tokens(&ids, &self.compute)?;
            let shape: Vec<usize> = dims.iter().copied().chain([stage.dim]).collect();
            embedded.push(tokens.reshape(shape)?);
        }
        Ok(embedded)
    }

    /// Returns the hidden states (B, P1' · P_2 · … · P_N, D_N) of embedded tokens, one tensor per
    /// stage as returned by [`embed`](Self::embed).
    ///
    /// # Errors
    /// Tensors of other shapes.
    pub fn hidden_states_from_embeddings(&self, embedded: &[Tensor]) -> Result<Tensor> {
        let stages = self.stages.len();
        if embedded.len() != stages {
            return Err(Error::input(format!(
                "embeddings: expected one tensor for each of {stages} stages, found {}",
                embedded.len()
            )));
        }
        let leading = embedded[0].dims().get(..2).unwrap_or_default().to_vec();
        let mut flat = Vec::with_capacity(stages);
        for (index, (tokens, stage)) in embedded.iter().zip(&self.stages).enumerate() {
            let inner = self.config.seq_lens[1..=index].iter().copied();
            let expected: Vec<usize> = leading.iter().copied().chain(inner).chain([stage.dim]).collect();
            if tokens.dims() != expected || leading.len() != 2 {
                return Err(Error::input(format!(
                    "embeddings of stage {}: expected shape {expected:?} (batch, patches, …, width), found {:?}",
                    index + 1,
                    tokens.dims()
                )));
            }
            let positions = expected[expected.len() - 2];
            let sequences = expected[..expected.len() - 2].iter().product::<usize>();
            flat.push(tokens.reshape((sequences, positions, stage.dim))?);
        }
        let (batch, patches) = (leading[0], leading[1]);
        let padded = patches * self.stages[0].bytes;
        let rows = self.all_rows(Tokens::Embedded(flat), batch)?;
        Ok(rows.reshape((batch, padded, self.local().dim))?)
    }

    /// Calls `visit(first row, rows)` for consecutive rows (rows, D_N) of the local stage over
    /// whole patches of the first stage, given `ids` (t · p), the contexts (t, P_2, D_2) of each
    /// patch, and the start of every stage.
    pub(crate) fn rows_below(
        &self,
        ids: &[u32],
        contexts: &Tensor,
        starts: &[(Tensor, State)],
        compute: &Compute,
        mut visit: Visit<'_>,
    ) -> Result<()> {
        let ids = PaddedIds::new(&self.config, ids.into(), self.device())?;
        let patches = contexts.dim(0)?;
        let evaluation = Evaluation {
            model: self,
            walk: Walk::looking(&self.config, patches, self.device()),
            tokens: Tokens::Ids(&ids),
            starts,
            compute,
        };
        for group in evaluation.walk.groups(1, 0..patches) {
            let context = contexts.narrow(0, group.first, group.count)?;
            evaluation.walk.group(&evaluation, &group, Some(context), &mut visit)?;
        }
        Ok(())
    }

    fn all_rows(&self, tokens: Tokens<'_>, batch: usize) -> Result<Tensor> {
        let mut pieces = Vec::new();
        self.evaluate(tokens, batch, &mut |_, rows| {
            pieces.push(rows);
            Ok(())
        })?;
        Ok(Tensor::cat(&pieces, 0)?)
    }

    /// Calls `visit(first row, rows)` for consecutive rows (rows, D_N) of the local stage.
    fn evaluate(&self, tokens: Tokens<'_>, batch: usize, mut visit: Visit<'_>) -> Result<()> {
        let starts = self.stages.iter().map(|stage| stage.begin(&self.compute));
        let starts = starts.collect::<Result<Vec<_>>>()?;
        let positions = match &tokens {
            Tokens::Ids(ids) => ids.padded / self.stages[0].bytes,
            Tokens::Embedded(embedded) => embedded[0].dim(1)?,
        };
        let evaluation = Evaluation {
            model: self,
            walk: Walk::looking(&self.config, positions, self.device()),
            tokens,
            starts: &starts,
            compute: &self.compute,
        };
        let chunk = first_chunk(self.stages[0].bytes, self.device());
        if positions <= chunk {
            return evaluation.walk.all_samples(&evaluation, batch, &mut visit);
        }
        (0..batch).try_for_each(|sample| evaluation.in_chunks(sample, chunk, &mut visit))
    }
}

impl Evaluation<'_> {
    fn stage(&self, group: &Group) -> &Stage {
        &self.model.stages[group.stage]
    }

    /// Evaluates one sample, its first stage in chunks of `chunk` positions.
    fn in_chunks(&self, sample: usize, chunk: usize, visit: &mut Visit<'_>) -> Result<()> {
        let (mut before, mut state) = self.starts[0].clone();
        for group in self.walk.chunks(sample, chunk) {
            let x = self.input(&group, None)?;
            let y = self.stage(&group).forward(&x, &mut state, self.compute)?;
            let outputs = Outputs { before, y };
            self.walk.below(self, &group, &outputs, visit)?;
            before = outputs.y.narrow(1, group.positions - 1, 1)?.copy()?;
        }
        Ok(())
    }

    /// The embedded tokens of a group with positions and contexts added: (n, t, D).
    fn input(&self, group: &Group, context: Option<Tensor>) -> Result<Tensor> {
        let stage = self.stage(group);
        let positions = self.walk.levels[group.stage].positions;
        let x = match &self.tokens {
            Tokens::Ids(ids) => {
                let ids = ids.sequences(group.first, group.count, positions, stage.bytes)?;
                let ids = ids.narrow(1, group.from, group.positions)?;
                stage.embedding.forward(&ids, group.from, self.compute)?
            }
            Tokens::Embedded(embedded) => {
                let tokens = embedded[group.stage].narrow(0, group.first, group.count)?;
                let tokens = tokens.narrow(1, group.from, group.positions)?;
                let tokens = tokens.to_dtype(stage.activations(self.compute))?;
                stage.embedding.with_positions(&tokens, group.from)?
            }
        };
        match context {
            Some(context) => Ok((x + context)?),
            None => Ok(x),
        }
    }
}

impl Look for Evaluation<'_> {
    type Outputs = Outputs;
    type Sums<'s> = Visit<'s>;

    fn forward(&self, group: &Group, context: Option<Tensor>) -> Result<Outputs> {
        let (start, state) = &self.starts[group.stage];
        let x = self.input(group, context)?;
        let y = self.stage(group).forward(&x, &mut state.clone(), self.compute)?;
        Ok(Outputs {
            before: start.clone(),
            y,
        })
    }

    fn feed(&self, group: &Group, outputs: &Outputs) -> Result<Tensor> {
        self.stage(group).feed(outputs)
    }

    fn contexts(&self, stage: usize, feed: &Tensor) -> Result<Tensor> {
        self.model.contexts(stage, feed, self.compute)
    }

    fn local(&self, group: &Group, outputs: &Outputs, visit: &mut Visit<'_>) -> Result<()> {
        visit(group.row, outputs.y.reshape((group.rows(), self.stage(group).dim))?)
    }
}

/// The most positions of `bytes` bytes that the first stage takes at once: as many rows as the
/// device computes at once, limited by the embedded bytes.
fn first_chunk(bytes: usize, device: &Device) -> usize {
    /// Embedded bytes for each row.
    const BYTES: usize = 32;
    let rows = rows_at_once(!device.is_cpu());
    rows.min(rows * BYTES / bytes.max(1)).max(1)
}
