//! A data set of one's own, trained from a configuration by its name like the built-in ones: sums
//! such as `17+5=22`, of which only the answer counts.
//!
//! ```sh
//! cargo run -p mblm --example custom_dataset
//! ```

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use candle_core::Device;
use mblm::blocks::BlockRegistry;
use mblm::config::Experiment;
use mblm::data::{Dataset, DatasetArgs, Sample, Split};
use mblm::model::{Model, Seeded};
use mblm::task::TaskRegistry;
use mblm::train::{Event, Observer, Outcome, Trainer, TrainingData};
use mblm::{Error, Result};

/// All sums a+b with a and b below `below`: the workers take turns, every 20th sum validates.
struct Sums {
    below: usize,
    validation: bool,
    worker: usize,
    workers: usize,
    sample_len: usize,
    pad_token_id: u32,
}

const VALIDATION_EVERY: usize = 20;

/// `dataset_args` of the configuration.
#[derive(serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Options {
    below: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self { below: 100 }
    }
}

impl Sums {
    fn open(args: &DatasetArgs) -> Result<Option<Arc<dyn Dataset>>> {
        let Options { below } = args.parse_options()?;
        let set = Self {
            below,
            validation: args.split == Split::Validation,
            worker: args.worker,
            workers: args.workers,
            sample_len: args.sample_len,
            pad_token_id: args.pad_token_id,
        };
        // there is no test split
        Ok((args.split != Split::Test).then(|| Arc::new(set) as Arc<dyn Dataset>))
    }

    /// How many sums this split has, over all workers.
    fn split_len(&self) -> usize {
        let all = self.below * self.below;
        let validation = all.div_ceil(VALIDATION_EVERY);
        if self.validation { validation } else { all - validation }
    }

    /// The number, among all sums, of sum `index` of this split.
    fn number(&self, index: usize) -> usize {
        if self.validation {
            index * VALIDATION_EVERY
        } else {
            index / (VALIDATION_EVERY - 1) * VALIDATION_EVERY + index % (VALIDATION_EVERY - 1) + 1
        }
    }
}

impl Dataset for Sums {
    fn len(&self, _epoch: usize) -> usize {
        self.split_len() / self.workers
    }

    fn sample(&self, index: usize, _epoch: usize) -> Result<Sample> {
        let number = self.number(index * self.workers + self.worker);
        let (a, b) = (number / self.below, number % self.below);
        let question = format!("{a}+{b}=");
        let text = format!("{question}{}", a + b);
        if text.len() > self.sample_len {
            return Err(Error::input(format!(
                "sums: `{text}` has {} bytes, input_seq_len is {}; raise it",
                text.len(),
                self.sample_len
            )));
        }
        let mut ids: Vec<u32> = text.bytes().map(u32::from).collect();
        ids.resize(self.sample_len, self.pad_token_id);
        let weight = |position| {
            if (question.len()..text.len()).contains(&position) {
                1.0
            } else {
                0.0
            }
        };
        Ok(Sample {
            ids,
            loss_weights: Some((0..self.sample_len).map(weight).collect()),
            ..Sample::default()
        })
    }

    fn bytes(&self) -> u64 {
        (self.split_len() * self.sample_len) as u64
    }

    fn describe(&self) -> String {
        format!("sums: {} of numbers below {}", self.split_len(), self.below)
    }
}

/// What is trained: `dataset_id` is the name under which the data set is registered, `dataset_args`
/// are its own.
pub(crate) const CONFIG: &str = "
io:
  name_model: sums
  output_dir: runs
  dataset_dir: .
  dataset_id: sums
  dataset_args: { below: 30 }
  num_models_to_save: 1
  validate_amount: 4
  log_train_loss_amount: 50
params:
  input_seq_len: 8
  num_tokens: 257
  pad_token_id: 256
  seq_lens: [4, 2]
  hidden_dims: [48, 48]
  num_layers: [2, 1]
  block:
    attn_head_dims: 16
    attn_num_heads: 3
    attn_use_rot_embs: true
    pos_emb_type: fixed
train:
  target_elements: 12_800
  target_elements_strategy: batch
  batch_size: 32
  shuffle_train: true
  learning_rate: 5e-3
  gradient_clipping: 1.0
  gradient_accumulate_every: 1
";

/// Trains the experiment of a configuration's text in `folder`, which is there.
pub(crate) fn train(config: &str, folder: &Path, observer: &mut dyn Observer) -> Result<Outcome> {
    let mut datasets = TaskRegistry::default();
    datasets.register("sums", Sums::open);
    let experiment = Experiment::from_yaml_str(config, "sums.yaml", &[])?;
    let data = TrainingData::open(&experiment, &datasets, None)?;
    println!("{}", data.train.describe());
    let seed = Seeded(experiment.train.seed);
    let model = Arc::new(Model::new(
        &experiment.params.architecture,
        &BlockRegistry::default(),
        &seed,
        &Device::Cpu,
    )?);
    Trainer::new(&experiment, model, data, folder).run(None, observer, &AtomicBool::new(false))
}

/// Prints each validation.
struct Validations;

impl Observer for Validations {
    fn event(&mut self, event: &Event<'_>) -> Result<()> {
        if let Event::Evaluated(evaluation) = event {
            let (batch, loss) = (evaluation.cum_batch + 1, evaluation.loss.mean);
            println!("after batch {batch}: {loss:.3} nats for each digit of an answer");
        }
        Ok(())
    }
}

#[allow(dead_code, reason = "the test of this example has no use for it")]
fn main() -> Result<()> {
    let folder = tempfile::tempdir().map_err(|error| Error::input(error.to_string()))?;
    let outcome = train(CONFIG, folder.path(), &mut Validations)?;
    println!("trained on {} batches", outcome.batches);
    Ok(())
}
