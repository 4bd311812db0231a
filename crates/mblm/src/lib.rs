//! The Multiscale Byte Language Model (arXiv 2502.14553): hierarchical language models over raw
//! bytes.
//!
//! | module | holds |
//! |---|---|
//! | [`config`] | configurations: the model's, an experiment's; read from YAML and checked once |
//! | [`bytes`] | bytes and ids, patches, output streams |
//! | [`model`] | the hierarchy and its stages, forward and backward |
//! | [`blocks`] | the built-in blocks, what stages are made of |
//! | [`data`] | data sets, and batches prepared ahead |
//! | [`task`] | what a data set is for, by its name |
//! | [`train`] | schedule, optimizer, training runs |
//! | [`generate`] | decoding with state, sampling |
//! | [`machine`] | the machine's memory and speed |
//! | [`eval`] | the loss of each byte of files and data sets |
//! | [`checkpoint`] | model folders, safetensors, the Python package's `.pth` |
//! | [`verify`] | known-good numbers, to check a machine with |

pub mod blocks;
pub mod bytes;
pub mod checkpoint;
pub mod config;
pub mod data;
pub mod eval;
pub mod generate;
pub mod machine;
pub mod model;
pub mod task;
pub mod train;
pub mod verify;

mod error;
mod unit;

pub use error::{Error, Result};
pub use unit::{Counted, Unit};

/// Tensors and devices, in the version that this crate uses.
pub use candle_core as candle;

/// The number of threads that computation on the CPU uses: `RAYON_NUM_THREADS`, else one a core.
pub fn threads() -> usize {
    mblm_ops::cpu::threads()
}

/// Sets the number of threads of this process, before its first computation. Returns whether it was
/// not too late.
pub fn use_threads(threads: usize) -> bool {
    rayon::ThreadPoolBuilder::new()
        .num_threads(threads)
        .build_global()
        .is_ok()
}

/// Process groups, for training on several ranks.
pub use mblm_group as group;
pub use mblm_ops::cpu::on_workers;
pub use mblm_ops::device;

/// Whether this machine trains faster with bfloat16 products ([`config::Precision::Bf16`]) than
/// with exact ones.
pub fn bf16_is_fast() -> bool {
    mblm_ops::linear::Products::bf16_is_fast()
}

/// The examples of the README, compiled and run as tests.
#[cfg(doctest)]
#[doc = include_str!("../../../README.md")]
struct Readme;

/// The examples of the guide, compiled and run as tests.
#[cfg(doctest)]
#[doc = include_str!("../../../docs/guide/src/library.md")]
struct Guide;
