//! Fuzzes model folders: `config.json`, and after a NUL byte the folder's `SHA256SUMS`, beside the
//! weights of a small model.
//!
//! The configuration may describe a model of any size; building it must fail at the first tensor
//! that the weights lack.
#![no_main]

use std::path::Path;

use candle_core::Device;
use mblm::blocks::BlockRegistry;
use mblm::checkpoint::{CONFIG_FILE, Folder, SUMS_FILE, WEIGHTS_FILE, architecture_of, verify_sums};
use mblm::model::Model;

/// The parameters of the model in `seeds/model_folder/`.
const WEIGHTS: &[u8] = include_bytes!("../seeds/safetensors/model.safetensors");

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let folder = tempfile::tempdir().expect("a temporary folder");
    write(folder.path(), data).expect("small files fit into the temporary folder");
    mblm_fuzz::limited(data.len(), || {
        let path = folder.path();
        let _ = verify_sums(path);
        if let Ok(Some(architecture)) = architecture_of(path) {
            let _ = architecture.parameter_counts();
        }
        let _ = Folder::open(path);
        let _ = Model::open(path, &BlockRegistry::default(), &Device::Cpu);
    });
});

fn write(folder: &Path, data: &[u8]) -> std::io::Result<()> {
    let mut parts = data.splitn(2, |&byte| byte == 0);
    std::fs::write(folder.join(CONFIG_FILE), parts.next().unwrap_or_default())?;
    if let Some(sums) = parts.next() {
        std::fs::write(folder.join(SUMS_FILE), sums)?;
    }
    std::fs::write(folder.join(WEIGHTS_FILE), WEIGHTS)
}
