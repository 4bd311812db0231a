//! The Multiscale Byte Language Model (arXiv 2502.14553): hierarchical language models over raw bytes.

mod error;

pub use error::{Error, Result};
