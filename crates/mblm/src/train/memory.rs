//! Memory estimate of a training run from its configuration, and the error for too little memory.
//!
//! Weights, gradients and Adam's two moments take 16 bytes per parameter; a bfloat16 copy of the
//! weights takes 2 more on a GPU that computes in bfloat16. Activations are kept for one group of
//! sequences per stage (in the first stage, all sequences of a group of samples), in the device's
//! type. Stages go depth first: during a stage's backward pass, the activations of the stages above
//! are kept, and none of those below. The peak is the worst of these moments:
//!
//! ```text
//! peak = parameters + max over stages s of (Σ_{i ≤ s} kept_i + backward_s)
//! ```

use candle_core::Device;
use mblm_ops::device::{is_out_of_memory, rows_at_once, training_rows};

use super::sizes::{list, sized};
use crate::blocks::{BlockMemory, MemoryArgs};
use crate::config::{Architecture, Experiment, ModelConfig, Precision};
use crate::model::{Chunking, Shards, Split, even_groups, sequences_in};
use crate::{Error, Result};

/// Bytes of an element of weights, gradients, moments and sums.
const FLOAT: f64 = 4.0;
/// Bytes of an element in bfloat16.
const HALF: f64 = 2.0;
/// Weights and gradients.
const COPIES: f64 = 2.0;
/// Memory of a GPU that the driver, cuBLAS and the kernels take, in bytes.
const DRIVER: u64 = 700 << 20;

/// A training step to estimate.
#[derive(Clone, Copy, Debug)]
pub struct Workload<'a> {
    /// The model.
    pub architecture: &'a Architecture,
    /// Samples of a batch.
    pub batch_size: usize,
    /// Bytes of a sample.
    pub len: usize,
    /// The type of matrix products.
    pub precision: Precision,
    /// Whether the device is a GPU, here or elsewhere.
    pub gpu: bool,
    /// How much to compute at once.
    pub chunking: Chunking,
    /// Values that the optimizer keeps per parameter: 2 for Adam.
    pub moments: usize,
}

impl<'a> Workload<'a> {
    /// The training step of an experiment on a device, without chunks of its first stage.
    pub fn of(experiment: &'a Experiment, device: &Device) -> Self {
        Self {
            architecture: &experiment.params.architecture,
            batch_size: experiment.train.batch_size,
            len: experiment.params.input_seq_len,
            precision: experiment.train.precision,
            gpu: !device.is_cpu(),
            chunking: Chunking::default(),
            moments: experiment.train.moments(),
        }
    }

    /// Positions of the first stage in a sample.
    pub fn positions(&self) -> usize {
        self.len.div_ceil(self.architecture.model().patch_bytes(0).max(1))
    }

    /// Whether the first stage can go in chunks: in a decoder, if known to have no dropout.
    pub fn takes_chunks(&self) -> bool {
        let first = self.architecture.model().block.first();
        let dropout = first.and_then(|block| block.dropout());
        matches!(self.architecture, Architecture::Decoder(_)) && dropout == Some(0.0)
    }

    /// Positions of a chunk, if the first stage goes in chunks.
    fn chunk(&self) -> Option<usize> {
        let takes_chunks = self.takes_chunks();
        self.chunking.chunk_of(self.positions()).filter(|_| takes_chunks)
    }

    /// The rows of a group by default.
    pub(super) fn rows_at_once(&self) -> usize {
        rows_at_once(self.kind().is_gpu())
    }

    fn kind(&self) -> Kind {
        match (self.gpu, self.precision) {
            (false, _) => Kind::Cpu,
            (true, Precision::Float32) => Kind::Gpu,
            (true, Precision::Auto | Precision::Bf16 | Precision::Fastest) => Kind::HalfGpu,
        }
    }
}

/// The memory of a training run by consumer, in bytes; saturates at [`u64::MAX`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MemoryEstimate {
    /// Weights, gradients and optimizer moments.
    pub parameters: u64,
    /// Each stage's activations kept for the backward pass.
    pub stages: Vec<u64>,
    /// Further memory during the backward pass of the stage at the peak.
    pub backward: u64,
    /// States of the first stage at chunk borders.
    pub borders: u64,
    /// Ids, targets and weights of a batch.
    pub batch: u64,
    /// The driver and its libraries on a GPU.
    pub driver: u64,
}

impl MemoryEstimate {
    /// Estimates the memory of a step.
    pub fn of(work: &Workload<'_>) -> Self {
        work.kind().estimate(work)
    }

    /// The total.
    pub fn total(&self) -> u64 {
        let kept = self.stages.iter().fold(0u64, |sum, stage| sum.saturating_add(*stage));
        [self.parameters, self.backward, self.borders, self.batch, self.driver]
            .iter()
            .fold(kept, |sum, part| sum.saturating_add(*part))
    }

    /// The consumers of memory, largest first, with the settings that lower each.
    pub fn consumers(&self) -> Vec<(String, u64, &'static str)> {
        let mut consumers = vec![
            (
                "weights, gradients and optimizer".to_string(),
                self.parameters,
                "params.hidden_dims, params.num_layers",
            ),
            (
                "states between chunks".to_string(),
                self.borders,
                "params.input_seq_len, a larger train.memory",
            ),
            (
                "ids and targets of the batch".to_string(),
                self.batch,
                "train.batch_size, params.input_seq_len",
            ),
            ("a layer's backward pass".to_string(), self.backward, "train.memory"),
            ("driver and libraries".to_string(), self.driver, "nothing does"),
        ];
        for (stage, bytes) in self.stages.iter().enumerate() {
            let settings = match stage {
                0 => "train.memory, train.batch_size, params.input_seq_len",
                _ => "train.memory, more params.train_checkpoint_chunks, train.batch_size",
            };
            consumers.push((format!("activations of stage {}", stage + 1), *bytes, settings));
        }
        consumers.retain(|consumer| consumer.1 > 0);
        consumers.sort_by_key(|consumer| std::cmp::Reverse(consumer.1));
        consumers
    }
}

/// Replaces an out-of-memory error by one that names the consumers and the settings to lower.
pub fn explain_memory<T>(result: Result<T>, experiment: &Experiment, device: &Device, chunking: Chunking) -> Result<T> {
    match result {
        Err(Error::Tensor(error)) if is_out_of_memory(&error) => Err(too_little(experiment, device, chunking)),
        result => result,
    }
}

fn too_little(experiment: &Experiment, device: &Device, chunking: Chunking) -> Error {
    let sized = |bytes: u64| sized(bytes, 1);
    let estimate = MemoryEstimate::of(&Workload {
        chunking,
        ..Workload::of(experiment, device)
    });
    let has = match mblm_ops::device::memory(device) {
        Ok(Some((_, total))) => format!(" of {}", sized(total as u64)),
        _ => String::new(),
    };
    let mut consumers = estimate.consumers();
    consumers.retain(|(_, bytes, _)| *bytes >= estimate.total() / 20);
    Error::OutOfMemory(format!(
        "{}: the memory{has} is used up; this run needs about {}: {}; lower the settings in parentheses, and look with \
         nvidia-smi for other programs that use the GPU",
        mblm_ops::device::name(device),
        sized(estimate.total()),
        list(&consumers, 1)
    ))
}

/// Bytes of one row.
struct Row {
    /// Kept from the forward to the backward pass.
    kept: f64,
    /// In addition during the stage's backward pass, one layer at a time.
    backward: f64,
}

/// The device and type of activations.
#[derive(Clone, Copy, PartialEq)]
enum Kind {
    /// float32.
    Cpu,
    /// float32.
    Gpu,
    /// bfloat16.
    HalfGpu,
}

impl Kind {
    fn is_gpu(self) -> bool {
        self != Self::Cpu
    }

    /// Bytes of an element.
    fn element(self) -> f64 {
        match self {
            Self::Cpu | Self::Gpu => FLOAT,
            Self::HalfGpu => HALF,
        }
    }

    fn estimate(self, work: &Workload<'_>) -> MemoryEstimate {
        // floats: products of configured numbers may exceed any integer
        let model = work.architecture.model();
        let chunk = work.chunk();
        let samples = match chunk {
            Some(_) => 1.0,
            None => work.batch_size as f64,
        };
        let patch = model.patch_bytes(0) as f64;
        let all = (work.len as f64 / patch.max(1.0)).ceil();
        let patches = chunk.map_or(all, |chunk| chunk as f64);
        let group_rows = |stage: usize| {
            let width = model.hidden_dims[stage];
            work.chunking
                .rows
                .unwrap_or_else(|| training_rows(self.is_gpu(), width))
        };
        let stage = |stage: usize| {
            let positions = match stage {
                0 => patches,
                _ => model.seq_lens[stage] as f64,
            };
            let of_stage = samples * patches * patch / (positions * model.patch_bytes(stage) as f64).max(1.0);
            let sequences = of_stage.floor();
            let chunks = model.train_checkpoint_chunks.as_ref().filter(|_| stage > 0);
            let group = match chunks {
                Some(chunks) => (sequences / chunks[stage - 1] as f64).ceil(),
                None => even_groups(sequences as usize, sequences_in(group_rows(stage), positions as usize)) as f64,
            };
            let rows = group.clamp(1.0, sequences.max(1.0)) * positions;
            let row = self.row(model, stage, positions);
            (rows * row.kept, rows * row.backward)
        };
        let (mut stages, mut kept, mut peak) = (Vec::with_capacity(model.num_stages()), 0.0, 0.0f64);
        for (of_stage, backward) in (0..model.num_stages()).map(stage) {
            stages.push(of_stage as u64);
            kept += of_stage;
            peak = peak.max(kept + backward);
        }
        let copy = if self.element() == HALF { HALF } else { 0.0 };
        let borders = match chunk {
            Some(chunk) => (all / chunk as f64).ceil() * self.state(model) + self.growing(model, all),
            None => 0.0,
        };
        let parameters = work.architecture.parameter_counts().total;
        let shards = self.shards(work, parameters);
        let of_parameter = (COPIES + work.moments as f64) * FLOAT + copy + (shards - 1) as f64 * FLOAT;
        MemoryEstimate {
            parameters: (parameters as f64 * of_parameter) as u64,
            stages,
            backward: (peak - kept) as u64,
            borders: borders as u64,
            batch: (work.batch_size as f64 * work.len as f64 * self.of_byte()) as u64,
            driver: if self.is_gpu() { DRIVER } else { 0 },
        }
    }

    /// The number of shards, each of which has its own gradients.
    fn shards(self, work: &Workload<'_>, parameters: u64) -> usize {
        let model = work.architecture.model();
        if !work.chunking.may_have_shards(self.is_gpu()) || !matches!(work.architecture, Architecture::Decoder(_)) {
            return 1;
        }
        let shards = Shards::of(Split {
            parameters,
            stages: model.num_stages(),
            batch: work.batch_size,
            at_once: sequences_in(training_rows(false, model.hidden_dims[0]), work.positions()),
            len: work.positions().saturating_mul(model.patch_bytes(0)),
            in_chunks: work.chunk().is_some(),
        });
        shards.count()
    }

    /// Bytes per byte of a batch: ids, targets, weights; on the CPU also loaded samples, next
    /// batch.
    fn of_byte(self) -> f64 {
        match self.is_gpu() {
            true => 12.0,
            false => 40.0,
        }
    }

    /// The memory of a layer of a stage, in sequences of `positions` positions.
    fn layer(self, model: &ModelConfig, stage: usize, positions: f64) -> BlockMemory {
        let dim = model.hidden_dims[stage];
        let args = MemoryArgs::new(dim, positions as usize, self.element(), self.is_gpu());
        model.block[stage].memory(&args)
    }

    /// Bytes of a first-stage state, without the parts that grow with the positions.
    fn state(self, model: &ModelConfig) -> f64 {
        let (dim, layers) = (model.hidden_dims[0] as f64, model.num_layers[0] as f64);
        layers * self.layer(model, 0, 0.0).state + self.element() * dim
    }

    /// Bytes of the growing parts of the first stage's state, such as keys and values.
    fn growing(self, model: &ModelConfig, positions: f64) -> f64 {
        model.num_layers[0] as f64 * positions * self.layer(model, 0, positions).position
    }

    /// The memory of one row of a stage.
    fn row(self, model: &ModelConfig, stage: usize, positions: f64) -> Row {
        let dim = model.hidden_dims[stage] as f64;
        let layers = model.num_layers[stage] as f64;
        let local = model.num_stages() - 1;
        let layer = self.layer(model, stage, positions).row;
        // patch bytes before and after their norm, and gradients; logits are temporary
        let (kept, backward) = match stage == local {
            true => (0.0, 3.0 * model.num_tokens as f64),
            false => {
                let patch = model.patch_bytes(stage) as f64 * model.hidden_dims[local] as f64;
                (2.0 * patch, 2.0 * patch)
            }
        };
        Row {
            kept: layers * layer + self.element() * (kept + 4.0 * dim),
            backward: layer + self.element() * (backward + 2.0 * dim),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::estimate_memory;
    use super::*;

    const EXPERIMENT: &str = "
io: {name_model: a, output_dir: a, dataset_dir: a, dataset_id: bytes, num_models_to_save: 1, validate_amount: 1,
     log_train_loss_amount: 1}
params: {input_seq_len: 100, num_tokens: 10, pad_token_id: 0, seq_lens: [25, 4], hidden_dims: [6, 4], num_layers: [1, 1],
         train_checkpoint_chunks: [2], block: {block_type: lstm}}
train: {target_elements: 18446744073709551615, target_elements_strategy: batch, batch_size: 3, learning_rate: 1.0,
        gradient_accumulate_every: 1}
";

    fn estimate(overrides: &[&str]) -> u64 {
        let overrides: Vec<String> = overrides.iter().map(|argument| argument.to_string()).collect();
        let experiment = Experiment::from_yaml_str(EXPERIMENT, "a.yaml", &overrides).unwrap();
        estimate_memory(&experiment, &Device::Cpu).total()
    }

    fn count(overrides: &[&str]) -> u64 {
        let overrides: Vec<String> = overrides.iter().map(|argument| argument.to_string()).collect();
        let experiment = Experiment::from_yaml_str(EXPERIMENT, "a.yaml", &overrides).unwrap();
        experiment.params.architecture.parameter_counts().total
    }

    #[test]
    fn rows_of_every_stage_are_counted() {
        let parameters = count(&[]);
        // 3 · 25 rows: a layer of 16 · 6, patches of 4 · 4 twice, 4 · 6
        let first = 75 * (96 + 2 * 16 + 24);
        // a chunk: 38 of 75 sequences of 4 rows; a layer of 16 · 4, 4 · 4; backward a layer,
        // logits three times, 2 · 4
        let second = 38 * 4 * ((64 + 16) + (64 + 30 + 8));
        let batch = 40 * 300;
        assert_eq!(estimate(&[]), 16 * parameters + 4 * (first + second) + batch);
        // with 100 layers, the first stage's backward pass, which comes last, is the peak
        let wide = estimate(&["params.num_layers.0=100", "params.train_checkpoint_chunks.0=75"]);
        let parameters = 16 * count(&["params.num_layers.0=100"]);
        assert_eq!(
            wide - batch,
            parameters + 4 * (75 * (9600 + 32 + 24) + 4 * 80 + 75 * (96 + 32 + 12) - 4 * 80)
        );
    }

    #[test]
    fn an_optimizer_takes_what_it_keeps() {
        let less = |keys: &[&str]| estimate(&[]) - estimate(keys);
        assert_eq!(less(&["train.optimizer=sgd"]), 8 * count(&[]));
        assert_eq!(less(&["train.optimizer=sgd", "train.momentum=0.9"]), 4 * count(&[]));
    }

    #[test]
    fn no_numbers_are_too_large() {
        let largest = usize::MAX.to_string();
        let set = |key: &str| format!("{key}={largest}");
        assert_eq!(
            estimate(&[&set("train.batch_size"), &set("params.input_seq_len")]),
            u64::MAX
        );
        assert_eq!(
            estimate(&[&set("params.num_layers.0"), &set("train.batch_size")]),
            u64::MAX
        );
        assert!(estimate(&[&set("params.seq_lens.0"), "params.seq_lens.1=1", "train.batch_size=1"]) < u64::MAX);
        assert!(estimate(&[&set("params.train_checkpoint_chunks.0")]) < u64::MAX);
    }

    #[test]
    fn used_up_memory_is_explained_and_nothing_else() {
        let experiment = Experiment::from_yaml_str(EXPERIMENT, "a.yaml", &[]).unwrap();
        let explain = |error: &str| {
            let error = candle_core::Error::Cuda(error.into()).bt();
            explain_memory::<()>(Err(error.into()), &experiment, &Device::Cpu, Chunking::default()).unwrap_err()
        };
        let full = explain("DriverError(CUDA_ERROR_OUT_OF_MEMORY, \"out of memory\")");
        let text = full.to_string();
        for part in ["activations of stage 1", "train.batch_size", "needs about 170.5 KiB"] {
            assert!(text.contains(part), "{text}");
        }
        assert!(matches!(
            explain("DriverError(CUDA_ERROR_INVALID_VALUE)"),
            Error::Tensor(_)
        ));
    }

    #[test]
    fn the_largest_consumer_comes_first() {
        let estimate = MemoryEstimate {
            parameters: 5,
            stages: vec![9, 7],
            backward: 2,
            driver: 1,
            ..MemoryEstimate::default()
        };
        let bytes: Vec<u64> = estimate.consumers().iter().map(|(_, bytes, _)| *bytes).collect();
        assert_eq!((bytes, estimate.total()), (vec![9, 7, 5, 2, 1], 24));
    }
}
