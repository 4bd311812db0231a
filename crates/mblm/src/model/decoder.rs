//! The decoder: a hierarchy of causal stages over bytes.
//!
//! Stage 1 reads whole patches, the local stage (N) single bytes; each stage's outputs, one position late, are the context
//! of the next stage's sequences (see [`Stage`]). Rows of the local stage are flattened over all patches: row j of a sample
//! is the output after byte j and predicts byte j + 1, also across patch borders; byte 0 is predicted by the local start
//! row.
//!
//! Shapes: ids (B, L), padded to L' = P1' · P_2 · … · P_N; stage n has B · P1' · … · P_{n−1} sequences of P_n positions; rows
//! (B · L', D_N).

use candle_core::{DType, Device, Tensor};
use mblm_ops::cross_entropy;
use mblm_ops::device::rows_at_once;
use mblm_ops::widened;

use super::backward::Chunking;
use super::compute::Compute;
use super::ids::{Ids, PaddedIds};
use super::init::ParameterSource;
use super::init::Seeded;
use super::layers::Linear;
use super::parameter::{Builder, Parameters};
use super::stage::Stage;
use super::state::State;
use crate::blocks::BlockRegistry;
use crate::config::ModelConfig;
use crate::{Error, Result};

/// A decoder: the Multiscale Byte Language Model (arXiv 2502.14553).
pub struct Mblm {
    pub(super) config: ModelConfig,
    pub(super) stages: Vec<Stage>,
    pub(super) to_logits: Linear,
    parameters: Parameters,
    device: Device,
    dtype: DType,
    compute: Compute,
}

/// Where the embedded tokens of each stage come from.
enum Tokens<'a> {
    Ids(&'a PaddedIds),
    /// One tensor (sequences, positions, D_n) a stage.
    Embedded(Vec<Tensor>),
}

impl Mblm {
    /// A model whose parameters come from `source`: a seed ([`Seeded`]) or a file.
    pub fn new(
        config: &ModelConfig,
        registry: &BlockRegistry,
        source: &dyn ParameterSource,
        dtype: DType,
        device: &Device,
    ) -> Result<Self> {
        let mut config = config.clone();
        config.resolve(registry)?;
        config.validate()?;
        let builder = Builder::new(source, dtype, device);
        let stages = (0..config.num_stages())
            .map(|stage| Stage::new(&config, stage, &builder))
            .collect::<Result<Vec<_>>>()?;
        let local_dim = config.hidden_dims[config.num_stages() - 1];
        let to_logits = Linear::new(&builder.scope("to_logits"), local_dim, config.num_tokens)?;
        Ok(Self {
            config,
            stages,
            to_logits,
            parameters: builder.parameters(),
            device: device.clone(),
            dtype,
            compute: Compute::default(),
        })
    }

    /// A new float32 model of built-in blocks.
    pub fn seeded(config: &ModelConfig, seed: u64, device: &Device) -> Result<Self> {
        Self::new(config, &BlockRegistry::default(), &Seeded(seed), DType::F32, device)
    }

    /// The configuration.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// All parameters.
    pub fn parameters(&self) -> &Parameters {
        &self.parameters
    }

    /// The device that the parameters are on.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// The type of the parameters.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// How the model computes where it is only used; training passes bring their own.
    pub fn compute(&self) -> &Compute {
        &self.compute
    }

    /// Lets the model compute like that where it is only used; exactly at first.
    pub fn set_compute(&mut self, compute: Compute) {
        self.compute = compute;
    }

    /// Logits (B, L, V) of ids (B, L); row j predicts byte j + 1.
    ///
    /// # Errors
    /// Ids outside the vocabulary, and more than a fixed position table of the first stage allows.
    pub fn logits<'a>(&self, ids: impl Into<Ids<'a>>) -> Result<Tensor> {
        self.to_logits.forward(&self.hidden_states(ids)?, &self.compute)
    }

    /// The outputs of the local stage (B, L, D_N), before the logits layer.
    pub fn hidden_states<'a>(&self, ids: impl Into<Ids<'a>>) -> Result<Tensor> {
        let ids = self.checked(ids.into())?;
        let local_dim = self.local().dim;
        if ids.batch == 0 || ids.len == 0 {
            return Ok(Tensor::zeros(
                (ids.batch, ids.len, local_dim),
                self.dtype,
                &self.device,
            )?);
        }
        let rows = self.all_rows(&Tokens::Ids(&ids), ids.batch)?;
        Ok(rows
            .reshape((ids.batch, ids.padded, local_dim))?
            .narrow(1, 0, ids.len)?)
    }

    /// Logits (V) of the first byte, which no input precedes.
    pub fn first_logits(&self) -> Result<Tensor> {
        let (first, _) = self.local().begin(&self.compute)?;
        Ok(self.to_logits.forward(&first, &self.compute)?.flatten_all()?)
    }

    /// The loss in nats of each byte (B, L) given the bytes before it; padding and masks are not looked at.
    pub fn losses<'a>(&self, ids: impl Into<Ids<'a>>) -> Result<Tensor> {
        let ids = self.checked(ids.into())?;
        if ids.batch == 0 || ids.len == 0 {
            return Ok(Tensor::zeros((ids.batch, ids.len), self.dtype, &self.device)?);
        }
        let first_logits = self.first_logits()?.unsqueeze(0)?; // (1, V)
        let mut pieces = Vec::new();
        self.rows(&Tokens::Ids(&ids), ids.batch, &mut |first, rows| {
            let count = rows.dim(0)?;
            let targets: Vec<u32> = (first..first + count)
                .map(|row| ids.host.get(row + 1).copied().unwrap_or(self.config.pad_token_id))
                .collect();
            let targets = Tensor::from_vec(targets, count, &self.device)?;
            pieces.push(cross_entropy::losses(
                &widened(&self.to_logits.forward(&rows, &self.compute)?)?,
                &targets,
            )?);
            Ok(())
        })?;
        let losses = Tensor::cat(&pieces, 0)?.reshape((ids.batch, ids.padded))?;
        let firsts: Vec<u32> = ids.host.iter().step_by(ids.padded).copied().collect();
        let firsts = Tensor::from_vec(firsts, ids.batch, &self.device)?;
        let first_logits = first_logits
            .broadcast_as((ids.batch, self.config.num_tokens))?
            .contiguous()?;
        let first_losses = cross_entropy::losses(&widened(&first_logits)?, &firsts)?.unsqueeze(1)?; // (B, 1)
        Ok(Tensor::cat(&[&first_losses, &losses.narrow(1, 0, ids.len - 1)?], 1)?)
    }

    /// The embedded tokens of each stage, from the most global to the local one, without positions: stage n has
    /// (B, P1', P_2, …, P_n, D_n).
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
            let tokens = stage
                .embedding
                .tokens(&ids.sequences(0, sequences, positions, stage.bytes)?, &self.compute)?;
            let shape: Vec<usize> = dims.iter().copied().chain([stage.dim]).collect();
            embedded.push(tokens.reshape(shape)?);
        }
        Ok(embedded)
    }

    /// Hidden states (B, P1' · P_2 · … · P_N, D_N) from embedded tokens instead of ids, one tensor a stage as
    /// [`embed`](Self::embed) returns them.
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
        let rows = self.all_rows(&Tokens::Embedded(flat), batch)?;
        Ok(rows.reshape((batch, padded, self.local().dim))?)
    }

    /// The number of stages.
    pub(crate) fn stage_count(&self) -> usize {
        self.stages.len()
    }

    /// Whether a step of a stage's block computes the whole sequence again.
    pub(crate) fn stage_recomputes(&self, stage: usize) -> bool {
        self.stages[stage].block.recomputes()
    }

    /// Bytes of one position of a stage.
    pub(crate) fn stage_bytes(&self, stage: usize) -> usize {
        self.stages[stage].bytes
    }

    /// The output of a stage's start row (1, 1, D) and the state after it.
    pub(crate) fn begin_stage(&self, stage: usize, compute: &Compute) -> Result<(Tensor, State)> {
        self.stages[stage].begin(compute)
    }

    /// The contexts (b, P, D) of a sequence of the stage after `stage`, from an output (b, 1, D); `None` after the last.
    pub(crate) fn next_contexts(&self, stage: usize, output: &Tensor, compute: &Compute) -> Result<Option<Tensor>> {
        match self.stages.get(stage + 1) {
            Some(next) => self.stages[stage].contexts(&output.squeeze(1)?, next, compute),
            None => Ok(None),
        }
    }

    /// Positions `start` and on of a stage's sequences, from ids (b, t, p) and contexts (b or 1, t, D): (b, t, D).
    pub(crate) fn run_stage(
        &self,
        stage: usize,
        ids: &Tensor,
        start: usize,
        context: Option<&Tensor>,
        state: &mut State,
        compute: &Compute,
    ) -> Result<Tensor> {
        let stage = &self.stages[stage];
        let mut x = stage.embedding.forward(ids, start, compute)?;
        if let Some(context) = context {
            x = x.broadcast_add(context)?;
        }
        stage.forward(&x, state, compute)
    }

    /// Calls `visit(first row, rows)` for consecutive rows (rows, D_N) of the local stage over whole patches of the first stage:
    /// `ids` (t · p), the contexts (t, P_2, D_2) that the first stage gives to each, and what every stage starts from.
    pub(crate) fn rows_below(
        &self,
        ids: &[u32],
        contexts: &Tensor,
        starts: &[(Tensor, State)],
        compute: &Compute,
        visit: &mut dyn FnMut(usize, Tensor) -> Result<()>,
    ) -> Result<()> {
        let ids = PaddedIds::new(&self.config, ids.into(), &self.device)?;
        let (sequences, positions, _) = contexts.dims3()?;
        let group = even_groups(sequences, group_size(positions, &self.device));
        for first in (0..sequences).step_by(group) {
            let count = group.min(sequences - first);
            let context = contexts.narrow(0, first, count)?;
            let tokens = Tokens::Ids(&ids);
            self.stage_rows(
                1,
                first,
                count,
                positions,
                Some(&context),
                &tokens,
                starts,
                compute,
                visit,
            )?;
        }
        Ok(())
    }

    /// Logits (…, V) from outputs of the local stage (…, D_N).
    pub(crate) fn logits_of(&self, rows: &Tensor, compute: &Compute) -> Result<Tensor> {
        self.to_logits.forward(rows, compute)
    }

    pub(super) fn local(&self) -> &Stage {
        &self.stages[self.stages.len() - 1]
    }

    /// Checks and pads ids, and that the first stage has room for them.
    pub(super) fn checked(&self, ids: Ids<'_>) -> Result<PaddedIds> {
        let ids = PaddedIds::new(&self.config, ids, &self.device)?;
        let (patches, bytes) = (ids.padded / self.stages[0].bytes, self.stages[0].bytes);
        match self.stages[0].embedding.max_positions() {
            Some(rows) if patches > rows => Err(Error::input(format!(
                "an input of {} bytes needs {patches} positions in the first stage, whose fixed position table has \
                 {rows}; at most {} bytes fit. Shorten the input, or train with pos_emb_type rope or none there",
                ids.len,
                rows * bytes
            ))),
            _ => Ok(ids),
        }
    }

    fn all_rows(&self, tokens: &Tokens<'_>, batch: usize) -> Result<Tensor> {
        let mut pieces = Vec::new();
        self.rows(tokens, batch, &mut |_, rows| {
            pieces.push(rows);
            Ok(())
        })?;
        Ok(Tensor::cat(&pieces, 0)?)
    }

    /// Calls `visit(first row, rows)` for consecutive rows of the local stage, (rows, D_N), groups of sequences at a time.
    fn rows(
        &self,
        tokens: &Tokens<'_>,
        batch: usize,
        visit: &mut dyn FnMut(usize, Tensor) -> Result<()>,
    ) -> Result<()> {
        let starts = (self.stages.iter())
            .map(|stage| stage.begin(&self.compute))
            .collect::<Result<Vec<_>>>()?;
        let positions = match tokens {
            Tokens::Ids(ids) => ids.padded / self.stages[0].bytes,
            Tokens::Embedded(embedded) => embedded[0].dim(1)?,
        };
        let group = even_groups(batch, group_size(positions, &self.device));
        for first in (0..batch).step_by(group) {
            let count = group.min(batch - first);
            let chunk = first_chunk(self.stages[0].bytes, &self.device);
            if positions <= chunk {
                self.stage_rows(0, first, count, positions, None, tokens, &starts, &self.compute, visit)?;
                continue;
            }
            for sample in first..first + count {
                self.rows_of_sample(sample, positions, chunk, tokens, &starts, &self.compute, visit)?;
            }
        }
        Ok(())
    }

    /// All `positions` of the first stage in one sample, `chunk` of them at a time, and everything below.
    fn rows_of_sample(
        &self,
        sample: usize,
        positions: usize,
        chunk: usize,
        tokens: &Tokens<'_>,
        starts: &[(Tensor, State)],
        compute: &Compute,
        visit: &mut dyn FnMut(usize, Tensor) -> Result<()>,
    ) -> Result<()> {
        let stage = &self.stages[0];
        let (mut before, mut state) = starts[0].clone();
        for from in (0..positions).step_by(chunk) {
            let count = chunk.min(positions - from);
            let x = self.tokens_of(0, (sample, 1), positions, (from, count), tokens, compute)?;
            let y = stage.forward(&x, &mut state, compute)?;
            self.rows_behind(
                0,
                sample * positions + from,
                &before,
                &y,
                tokens,
                starts,
                compute,
                visit,
            )?;
            before = y.narrow(1, count - 1, 1)?.copy()?;
        }
        Ok(())
    }

    /// The input of a stage without contexts: positions `from` and on, `count` of them, of some sequences of `positions`.
    fn tokens_of(
        &self,
        index: usize,
        (first, sequences): (usize, usize),
        positions: usize,
        (from, count): (usize, usize),
        tokens: &Tokens<'_>,
        compute: &Compute,
    ) -> Result<Tensor> {
        let stage = &self.stages[index];
        match tokens {
            Tokens::Ids(ids) => {
                let ids = ids.sequences(first, sequences, positions, stage.bytes)?;
                stage.embedding.forward(&ids.narrow(1, from, count)?, from, compute)
            }
            Tokens::Embedded(embedded) => {
                let tokens = embedded[index].narrow(0, first, sequences)?.narrow(1, from, count)?;
                stage
                    .embedding
                    .with_positions(&tokens.to_dtype(stage.activations(compute))?, from)
            }
        }
    }

    /// One group of sequences of a stage, and then, group by group, the sequences of the stages below it.
    fn stage_rows(
        &self,
        index: usize,
        first: usize,
        count: usize,
        positions: usize,
        context: Option<&Tensor>,
        tokens: &Tokens<'_>,
        starts: &[(Tensor, State)],
        compute: &Compute,
        visit: &mut dyn FnMut(usize, Tensor) -> Result<()>,
    ) -> Result<()> {
        let stage = &self.stages[index];
        let mut x = self.tokens_of(index, (first, count), positions, (0, positions), tokens, compute)?; // (count, positions, D)
        if let Some(context) = context {
            x = (x + context)?;
        }
        let (start, state) = &starts[index];
        let y = stage.forward(&x, &mut state.clone(), compute)?;
        self.rows_behind(index, first * positions, start, &y, tokens, starts, compute, visit)
    }

    /// What follows from outputs `y` (n, t, D) of a stage, whose first row is number `first` among all rows of that stage; `before`
    /// is the output before them.
    fn rows_behind(
        &self,
        index: usize,
        first: usize,
        before: &Tensor,
        y: &Tensor,
        tokens: &Tokens<'_>,
        starts: &[(Tensor, State)],
        compute: &Compute,
        visit: &mut dyn FnMut(usize, Tensor) -> Result<()>,
    ) -> Result<()> {
        let stage = &self.stages[index];
        let (count, positions, _) = y.dims3()?;
        let Some(next) = self.stages.get(index + 1) else {
            return visit(first, y.reshape((count * positions, stage.dim))?);
        };
        let feed = stage.feed(before, y)?; // (count · positions, D)
        let group = even_groups(count * positions, group_size(next.positions, &self.device));
        for row in (0..count * positions).step_by(group) {
            let sequences = group.min(count * positions - row);
            let context = stage.contexts(&feed.narrow(0, row, sequences)?, next, compute)?;
            self.stage_rows(
                index + 1,
                first + row,
                sequences,
                next.positions,
                context.as_ref(),
                tokens,
                starts,
                compute,
                visit,
            )?;
        }
        Ok(())
    }
}

/// How many positions of `bytes` bytes the first stage takes at once where nothing is kept for a backward pass: as many rows as
/// the device computes at once, and not too many bytes, which are embedded one by one.
fn first_chunk(bytes: usize, device: &Device) -> usize {
    /// Embedded bytes for each row.
    const BYTES: usize = 32;
    let rows = rows_at_once(!device.is_cpu());
    rows.min(rows * BYTES / bytes.max(1)).max(1)
}

/// How many sequences of `positions` each make one group at most: as many rows as the device computes at once, which bounds the
/// memory of everything below the first stage.
pub(crate) fn group_size(positions: usize, device: &Device) -> usize {
    sequences_in(rows_at_once(!device.is_cpu()), positions)
}

/// How many sequences of `positions` a group of `rows` rows has.
pub(crate) fn sequences_in(rows: usize, positions: usize) -> usize {
    (rows / positions.max(1)).max(1)
}

/// The size of each group of `total` sequences in as few groups of at most `most` as there can be, all of about one size.
pub(crate) fn even_groups(total: usize, most: usize) -> usize {
    total.div_ceil(total.div_ceil(most.max(1)).max(1)).max(1)
}

/// How many sequences of each stage a training pass over `bytes` padded bytes, in samples of `first` positions of the first stage, takes
/// at once: what `train_checkpoint_chunks` says for the stages below the first, else as many as have the rows of a group.
pub(super) fn training_groups(
    config: &ModelConfig,
    (bytes, first): (usize, usize),
    chunking: Chunking,
    device: &Device,
) -> Vec<usize> {
    let of_stage = |stage: usize| {
        let positions = if stage == 0 { first } else { config.seq_lens[stage] };
        match &config.train_checkpoint_chunks {
            Some(chunks) if stage > 0 => {
                let sequences = bytes / (positions * config.patch_bytes(stage)).max(1);
                sequences.div_ceil(chunks[stage - 1]).max(1)
            }
            _ => sequences_in(chunking.rows_on(device, config.hidden_dims[stage]), positions),
        }
    };
    (0..config.num_stages()).map(of_stage).collect()
}
