//! The Multiscale Byte Language Model (arXiv 2502.14553): hierarchical language models over raw bytes.

pub mod bytes;
pub mod checkpoint;
pub mod config;
pub mod data;
pub mod generate;

mod error;

pub use error::{Error, Result};
