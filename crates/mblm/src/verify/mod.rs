//! Fixtures: numbers of a known-good run, and their comparison with this machine and device.
//!
//! A fixture is a safetensors file with metadata `kind` (`decoder`, `encoder` or `train`) and
//! `config` (the model's JSON).
//!
//! | kind | tensors |
//! |---|---|
//! | decoder | `param.*`, `grad.*` (of `loss`), `input_ids` (B, L), `loss_mask`, `loss`, `logits`, `hidden_state`, `greedy` (20 bytes of sample 0 and 24 greedily generated ones) |
//! | encoder | `param.*`, `grad.*`, `input_ids`, `labels`, `attention_mask`, `mlm_mask`, `logits`, `hidden_state`, `loss_with_mlm_mask_as_attention` |
//! | train | metadata `recipe`; `init.*`, `data` (consecutive batches), `losses` and `lrs` a batch, `grad_norms` a step, `final.*` |
//!
//! ```
//! use candle_core::Device;
//! use mblm::blocks::BlockRegistry;
//! use mblm::verify::{BUNDLED, Fixture, compare};
//!
//! let (name, bytes) = BUNDLED[0];
//! let fixture = Fixture::from_bytes(bytes, name.as_ref())?;
//! let found = compare(&fixture, &BlockRegistry::default(), &Device::Cpu)?;
//! assert!(found.iter().all(|comparison| comparison.passes()));
//! # Ok::<(), mblm::Error>(())
//! ```

mod fixture;
mod model;
mod training;

pub use fixture::Fixture;

use std::path::Path;

use candle_core::Device;
use serde::Serialize;

use crate::blocks::BlockRegistry;
use crate::{Error, Result};

/// Returns the name and bytes of a bundled fixture.
macro_rules! bundled {
    ($name:literal) => {
        (
            $name,
            include_bytes!(concat!("../../tests/fixtures/", $name, ".safetensors")),
        )
    };
}

/// The largest relative L2 error of logits, hidden state, loss and each gradient in float32.
pub const VALUE_BOUND: f64 = 2e-5;
/// The largest difference of a training loss, in nats.
pub const LOSS_BOUND: f64 = 2e-4;
/// The largest relative difference of a learning rate.
pub const RATE_BOUND: f64 = 1e-6;
/// The largest relative difference of a gradient norm.
pub const NORM_BOUND: f64 = 2e-3;
/// Gradients with a smaller norm are compared by absolute, not relative, error.
const GRADIENT_FLOOR: f64 = 1e-6;

/// One comparison with a fixture.
#[derive(Clone, Debug, Serialize)]
pub struct Comparison {
    /// The compared quantity.
    pub what: String,
    /// The error found.
    pub error: f64,
    /// The largest error that passes.
    pub bound: f64,
    /// The location of the largest error, such as a parameter's name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub place: Option<String>,
}

impl Comparison {
    fn new(what: &str, error: f64, bound: f64) -> Self {
        Self {
            what: what.to_string(),
            error,
            bound,
            place: None,
        }
    }

    /// Returns the largest of several errors with its location; NaN counts as the largest.
    fn worst(what: &str, errors: impl IntoIterator<Item = (String, f64)>, bound: f64) -> Self {
        let mut worst = Self::new(what, 0.0, bound);
        for (place, error) in errors {
            if error.is_nan() || error > worst.error || worst.place.is_none() {
                worst.error = error;
                worst.place = Some(place);
                if error.is_nan() {
                    break;
                }
            }
        }
        worst
    }

    /// Returns whether the error is within its bound; NaN is not.
    pub fn passes(&self) -> bool {
        self.error <= self.bound
    }
}

/// The bundled fixtures, name and bytes. Together they reach every built-in block and training.
pub const BUNDLED: [(&str, &[u8]); 4] = [
    bundled!("decoder_2d_m1t"),
    bundled!("decoder_2d_tt_rope"),
    bundled!("encoder_2d_ee"),
    bundled!("train_2d_st"),
];

/// Runs a fixture file on a device and compares everything it holds.
pub fn run(path: &Path, registry: &BlockRegistry, device: &Device) -> Result<Vec<Comparison>> {
    compare(&Fixture::open(path)?, registry, device)
}

/// Compares everything in a fixture in memory.
pub fn compare(fixture: &Fixture, registry: &BlockRegistry, device: &Device) -> Result<Vec<Comparison>> {
    match fixture.kind() {
        "decoder" => model::decoder(fixture, registry, device),
        "encoder" => model::encoder(fixture, device),
        "train" => training::run(fixture, registry, device),
        other => Err(Error::file(
            fixture.path(),
            format!("fixture of kind {other:?}: expected decoder, encoder or train"),
        )),
    }
}
