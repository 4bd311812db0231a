//! Data: from files on disk to batches of ids.
//!
//! ```text
//! files ──▶ ByteSource ──▶ Sequential ──▶ (Masked) ──▶ Dataset ──▶ Loader ──▶ Batch
//!           any number     samples of one  masked-byte   trait,     another    (rows, len)
//!           of bytes       worker          training      registry   thread
//! ```
//!
//! A sample of a [`Dataset`] depends on its index and epoch alone, not on the order of calls or the
//! thread. So a run that resumes at an epoch and a batch sees the same samples as an uninterrupted
//! run. A program opens data sets by name through a [`TaskRegistry`](crate::task::TaskRegistry) and
//! can add its own.

mod batch;
mod bytes;
mod dataset;
mod decode;
mod files;
pub mod hash;
mod loader;
mod masked;
mod packed;
mod permutation;
pub(crate) mod pg19;
mod reading;
mod separators;
mod sequential;
mod source;
mod special_ids;
pub mod splits;
mod walk;

pub use mblm_formats::json_line::as_standard as as_standard_json;

pub use batch::{Batch, Position};
pub use bytes::{Opener, Part, too_short};
pub use dataset::{Dataset, DatasetArgs, Masking, OnOpening, Opening, Sample, Split};
pub use files::Files;
pub use loader::{Loader, LoaderOptions, Order};
pub use masked::Masked;
pub use packed::warn_if_packed;
pub use permutation::Permutation;
pub use reading::{BadLines, Reading};
pub use sequential::{Ranges, SequenceOptions, Sequential};
pub use source::ByteSource;
pub use walk::regular_files;
