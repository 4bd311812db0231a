//! A data set of one's own, opened by name like the built-in ones: sums such as `17+5=22`, of which only the answer counts.
//!
//! ```sh
//! cargo run -p mblm --example custom_dataset
//! ```

use std::sync::Arc;

use mblm::data::{Dataset, DatasetArgs, Loader, LoaderOptions, Order, Position, Registry, Sample, Split};
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

fn main() -> Result<()> {
    let mut registry = Registry::default();
    registry.register("sums", Sums::open);

    let mut args = DatasetArgs::new("", Split::Train, 16);
    args.pad_token_id = 256;
    args.num_tokens = 257;
    args.options.insert("below".into(), 1000.into());
    let Some(set) = registry.open("sums", &args)? else {
        return Err(Error::input("sums has no such split"));
    };
    println!("{}", set.describe());

    let options = LoaderOptions::training(4, Order::Shuffled { seed: 1 }, Position::default());
    for batch in Loader::new(set, options)?.take(2) {
        let batch = batch?;
        println!("epoch {}, batch {}:", batch.position.epoch, batch.position.batch);
        for (row, sample) in batch.ids.chunks(batch.len).zip(&batch.samples) {
            let text: String = row
                .iter()
                .map_while(|&id| u8::try_from(id).ok().map(char::from))
                .collect();
            println!("  sample {sample}: {text}");
        }
    }
    Ok(())
}
