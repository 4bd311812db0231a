//! Conversion of image files to the bytes that a model reads, shared by the data sets of images.
//!
//! ```text
//! *.png, *.jpg ──▶ image ──▶ resize ──▶ channels ──▶ (jpeg) ──▶ images
//!                  decode, cut                                  memory, cache
//! ```
//!
//! | file | holds |
//! |---|---|
//! | `pixels` | an image in memory |
//! | `decoded`, `jpeg_reader` | from a PNG or JPEG file to pixels |
//! | `resize`, `channels`, `jpeg`, `prepare` | the preparation of each image |
//! | `keys` | the keys of `dataset_args` for the preparation, and their checks |
//! | `listing`, `images`, `cache` | prepared images in memory and on disk |

pub(super) mod cache;
pub(super) mod channels;
pub(super) mod decoded;
pub(super) mod images;
pub(super) mod jpeg;
mod jpeg_reader;
pub(super) mod keys;
pub(super) mod listing;
mod pixels;
pub(super) mod prepare;
pub(super) mod resize;
#[cfg(test)]
pub(super) mod testing;
#[cfg(test)]
mod tests;

pub use pixels::Image;

pub(super) use decoded::{Kind, inspect as inspect_image};
pub(super) use jpeg_reader::inspect as inspect_jpeg;
