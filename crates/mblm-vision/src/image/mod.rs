//! From picture files to the bytes that a model reads: what the data sets of pictures share.
//!
//! ```text
//! *.png, *.jpg ──▶ picture ──▶ resize ──▶ channels ──▶ (jpeg) ──▶ images
//!                  decode, cut                                  memory, cache
//! ```
//!
//! | file | holds |
//! |---|---|
//! | `picture`, `jpeg_reader` | from a PNG or JPEG file to pixels |
//! | `resize`, `channels`, `jpeg`, `prepare` | what is done with each picture |
//! | `keys` | the keys of `dataset_args` that ask for it, and their checks |
//! | `images`, `cache` | prepared pictures in memory and on disk |

pub(super) mod cache;
pub(super) mod channels;
pub(super) mod images;
pub(super) mod jpeg;
mod jpeg_reader;
pub(super) mod keys;
pub(super) mod picture;
pub(super) mod prepare;
pub(super) mod resize;
#[cfg(test)]
pub(super) mod testing;
#[cfg(test)]
mod tests;

pub use picture::Picture;

pub(super) use jpeg_reader::inspect as inspect_jpeg;
pub(super) use picture::inspect as inspect_png;
