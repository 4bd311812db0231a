//! Model files: named tensors with their configuration, read from and written to disk.
//!
//! | file | holds |
//! |---|---|
//! | `weights.rs` | [`Weights`]: an open file of named tensors, whatever its format |
//! | `torch_write.rs` | writing torch files: [`write_torch`] and the [`rotary_buffers`] they need |
//! | `names.rs` | translation of the parameter names of older files |
//! | `folder.rs` | a model folder, `config.json` and `model.safetensors`: [`Folder`], [`save`] |
//! | `layout.rs` | the names of files and folders |
//! | `run.rs` | where a run's folder keeps its models and states |
//! | `open.rs` | opening and saving whole models: [`Model::open`](crate::model::Model::open) |
//! | `transfer.rs` | another model's weights as the initial values of a new one: [`Transfer`] |
//! | `atomic.rs` | files and folders that appear complete or not at all: [`atomic::write`], [`atomic::write_folder`] |
//! | `tree.rs` | folders of many files that appear complete or not at all: [`tree::NewTree`] |
//! | `append.rs` | files that grow row by row and never keep a partial row |
//! | `sums.rs` | checksums of a folder's files: [`verify_sums`] |
//!
//! Files are mapped, not read: opening reads the header alone. No input makes these readers panic,
//! recurse, or allocate more than a small multiple of the file's size: each size that a file claims
//! is first checked against the file's length.

pub mod atomic;
pub mod tree;

pub(crate) mod append;
mod folder;
mod layout;
mod names;
mod open;
mod run;
mod sums;
mod torch_write;
mod transfer;
mod weights;

pub use folder::fill as fill_folder;
pub(crate) use folder::save_tensors;
pub use folder::{FORMAT, Folder, save};
pub use layout::{
    CONFIG_FILE, INDEX_FILE, LOSS_FILE, MODELS, RUN_CONFIG, STATE_FILE, STATES, SUMS_FILE, WEIGHTS_FILE, is_output,
};
pub use mblm_formats::tensors::StoredType;
pub use open::architecture_of;
pub(crate) use run::{batch_folder, batch_folders};
pub use sums::{hex, verify as verify_sums};
pub use torch_write::{rotary_buffers, write as write_torch};
pub use transfer::Transfer;
pub use weights::Weights;
