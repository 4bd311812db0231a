//! Fuzzes safetensors files: as a model's weights, and as a fixture of known-good numbers.
//!
//! If a file opens, every floating-point tensor in it must load.
#![no_main]

use std::path::Path;

use mblm::checkpoint::Weights;
use mblm::verify::Fixture;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    mblm_fuzz::limited(data.len(), || {
        let path = Path::new("fuzz.safetensors");
        if let Ok(weights) = Weights::from_bytes(data.to_vec(), path) {
            mblm_fuzz::load_all(&weights);
        }
        if let Ok(fixture) = Fixture::from_bytes(data, path) {
            let _ = fixture.json::<mblm::config::Architecture>("config");
            for name in ["input_ids", "logits", "losses"] {
                let _ = fixture.numbers(name);
            }
        }
    });
});
