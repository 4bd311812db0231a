//! Data set `needle`: key–value pairs hidden in natural text, with queries for their values at the
//! end.
//!
//! ```text
//! But in such cases as th[key qxv: 4821]↵ese a good memory is unpardonable. … [key qxv? 4821]↵
//! ```
//!
//! The text is the text of data set `bytes`, with the same splits and the options `held_out`,
//! `text_field`, `skip_bad_lines` and `raw`. A sample of `input_seq_len` bytes is a window of the
//! text at a random position with `needles` pairs hidden in it, followed by `queries` of them with
//! their values. Pairs have random depths; the pair of the last query has the depth of the option
//! `depth`, if given. Sample i of epoch e is a function of (seed, split, worker, e, i). A key has
//! `key_len` characters and occurs in a sample only in its needle and its query. An epoch has as
//! many samples as fit side by side into the text.
//!
//! With `loss_on: answer` the loss counts the values of the queries; with `text_weight` it also
//! counts all other bytes, with this weight. In training, retrieval appears suddenly, and sooner
//! with more queries per sample.
//!
//! **Patches.** A hierarchical model can answer only if the value begins in a later patch of its
//! first stage than the patch in which the query's key ends. With patches of 8 bytes, `align: 8`
//! ensures this: needle and query of the default formats are two patches each, `[key qxv` and
//! `: 4821]↵`. Without alignment, `query_format` needs at least p − 1 bytes of text between key and
//! value for patches of p bytes.

use std::sync::Arc;

use mblm::bytes::ids_from_bytes;
use mblm::data::{Dataset, DatasetArgs, Opener, Sample, Split, too_short};
use mblm::{Error, Result};

use super::haystack::Haystack;
use super::hidden::Hidden;
use super::options::{LossOn, NeedleOptions, Task};

/// Opens the split of `args`; `None` if the data have no such split.
pub(super) fn open(args: &DatasetArgs, opener: &Opener) -> Result<Option<Arc<dyn Dataset>>> {
    let options: NeedleOptions = args.parse_options()?;
    let held_out = options.held_out;
    let Some(haystack) = Haystack::split(args, &options, opener)? else {
        return Ok(None);
    };
    let task = Task::new(options)?;
    let text = task.haystack_len(args.sample_len)?;
    haystack
        .last_offset(text)
        .map_err(|error| too_short(error, args.split, held_out))?;
    Ok(Some(Arc::new(Needle {
        task,
        haystack,
        args: args.clone(),
    })))
}

/// One split of the data set.
struct Needle {
    task: Task,
    haystack: Haystack,
    args: DatasetArgs,
}

impl Needle {
    fn weights(&self, hidden: &Hidden) -> Option<Vec<f32>> {
        let options = self.task.options();
        if options.loss_on == LossOn::All {
            return None;
        }
        let mut weights = vec![options.text_weight.unwrap_or(0.0); hidden.bytes.len()];
        for answer in &hidden.answers {
            weights[answer.clone()].fill(1.0);
        }
        Some(weights)
    }
}

impl Dataset for Needle {
    fn len(&self, _: usize) -> usize {
        let samples = self.haystack.len() / self.args.sample_len as u64 / self.args.workers as u64;
        usize::try_from(samples).unwrap_or(usize::MAX).max(1)
    }

    fn sample(&self, index: usize, epoch: usize) -> Result<Sample> {
        if index >= self.len(epoch) {
            return Err(Error::input(format!(
                "sample {index} of epoch {epoch} was asked for, which has {} samples",
                self.len(epoch)
            )));
        }
        let DatasetArgs { seed, worker, .. } = self.args;
        let split = match self.args.split {
            Split::Train => 0,
            Split::Validation => 1,
            Split::Test => 2,
        };
        let seed = [seed, split, worker as u64, epoch as u64, index as u64];
        let hidden = self.task.hide(&self.haystack, self.args.sample_len, None, &seed)?;
        let ids = ids_from_bytes(&hidden.bytes);
        let tokens = self.args.num_tokens;
        if let Some(id) = ids.iter().find(|id| **id as usize >= tokens) {
            return Err(Error::input(format!(
                "{}: byte {id} of sample {index} is no id of the model: num_tokens is {tokens}; set it to at least 256 to read \
                 any text",
                self.haystack.name()
            )));
        }
        Ok(Sample {
            ids,
            loss_weights: self.weights(&hidden),
            ..Sample::default()
        })
    }

    fn bytes(&self) -> u64 {
        self.haystack.len()
    }

    fn describe(&self) -> String {
        let options = self.task.options();
        format!(
            "needle ({}): {} bytes, {} samples of {} bytes with {} needles and {} queries",
            self.haystack.name(),
            self.haystack.len(),
            self.len(0),
            self.args.sample_len,
            options.needles,
            options.queries
        )
    }
}
