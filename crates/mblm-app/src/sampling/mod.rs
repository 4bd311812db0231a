//! Samples of a model: how bytes are chosen, where a text is, streams from logits to what is written.
//!
//! | file | holds |
//! |---|---|
//! | `rules` | how bytes are chosen, which they may be, what ends a sample |
//! | `place` | the model's state after a text |
//! | `streams` | samples, from logits to what is written |

mod place;
mod rules;
mod streams;

use anyhow::Result;
use mblm::generate::{Generator, Sampling};
use mblm::model::Mblm;

pub(crate) use place::Place;
pub(crate) use rules::Rules;
pub(crate) use streams::{End, Stream, describe, extend, extend_all};

/// The ids that are bytes.
pub(crate) fn append(bytes: &mut Vec<u8>, ids: &[u32]) {
    bytes.extend(ids.iter().filter_map(|id| u8::try_from(*id).ok()));
}

/// What a model says by itself, up to `max_bytes` bytes.
pub(crate) fn sample(model: &Mblm, sampling: Sampling, seed: u64, max_bytes: usize) -> Result<Vec<u8>> {
    let rules = Rules::endless(sampling);
    let generator = Generator::new(model)?;
    let mut place = Place::begin(&generator)?;
    let mut stream = Stream::new(&rules, seed, 0, &[])?;
    let mut bytes = Vec::new();
    extend(
        &generator,
        &mut place,
        &mut stream,
        max_bytes,
        false,
        &mut || true,
        &mut |ids| {
            append(&mut bytes, ids);
            Ok(())
        },
    )?;
    Ok(bytes)
}

/// A seed for draws that nobody asks to be repeated.
pub(crate) fn seed_from_clock() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.map_or(0, |elapsed| elapsed.as_nanos() as u64)
}
