//! Forecasts of a training step on a device: memory limit, longest context, time per batch.

use candle_core::Device;

use super::budget::chunking_for;
use super::memory::Workload;
use crate::Result;
use crate::config::{ByteSize, Precision};
use crate::machine::speed::{Product, Spread};
use crate::model::Chunking;

/// Share of the free memory that a step may take, unless configured.
const SHARE_OF_FREE: f64 = 0.95;
/// Assumed speed of a step, as a share of the speed of a plain matrix product.
const SHARE_OF_PRODUCT: f64 = 0.5;
/// The widest product that is measured: wider ones are no faster.
const MAX_WIDTH: usize = 4096;
/// Repetitions of the product.
const REPETITIONS: usize = 3;
/// The longest context tried, in bytes.
const MAX_CONTEXT: usize = 1 << 40;

/// The memory limit of a step in bytes: configured, or a GPU's free memory. The CPU has its own
/// rule.
///
/// # Errors
/// A failing device.
pub fn memory_limit(asked: Option<ByteSize>, device: &Device) -> Result<Option<u64>> {
    Ok(match asked {
        Some(memory) => Some(memory.as_u64()),
        None => crate::device::memory(device)?.map(|(free, _)| (free as f64 * SHARE_OF_FREE) as u64),
    })
}

/// Returns the longest context in bytes, in whole patches, whose step fits into `memory` bytes with
/// one sample per batch, within the model's positions. `None` if not even one patch fits.
pub fn longest_context(work: &Workload<'_>, memory: u64) -> Option<usize> {
    let model = work.architecture.model();
    let patch = model.patch_bytes(0).max(1);
    let most = model.longest_input().unwrap_or(MAX_CONTEXT).min(MAX_CONTEXT) / patch;
    let fits = |patches: usize| {
        let longer = Workload {
            batch_size: 1,
            len: patches * patch,
            chunking: Chunking::default(),
            ..*work
        };
        chunking_for(&longer, Some(memory)).is_ok()
    };
    // `fits` holds below some length and not above
    let (mut fitting, mut beyond) = (0, most + 1);
    while beyond - fitting > 1 {
        let middle = fitting + (beyond - fitting) / 2;
        match fits(middle) {
            true => fitting = middle,
            false => beyond = middle,
        }
    }
    (fitting > 0).then_some(fitting * patch)
}

/// Estimates the seconds of a batch from its weight products alone, at half the speed of a plain
/// product; `None` if their number is unknown.
pub fn seconds_per_batch(work: &Workload<'_>, device: &Device) -> Option<f64> {
    let multiplications = work.architecture.multiplications_per_byte()?;
    let width = work.architecture.model().hidden_dims.last().copied()?;
    let product = Product::new(width.min(MAX_WIDTH), Precision::Auto, device).ok()?;
    let speed = Spread::measure(REPETITIONS, || product.run()).ok()?.median;
    let flops = 3.0 * 2.0 * multiplications * (work.batch_size * work.len) as f64;
    Some(flops / speed / SHARE_OF_PRODUCT)
}
