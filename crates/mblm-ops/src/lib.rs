//! Differentiable tensor operations for byte language models, on candle tensors.
//!
//! This crate does not depend on any model. Each operation is a folder with the same files:
//!
//! | file | holds |
//! |---|---|
//! | `mod.rs` | formula and shapes, the public `forward` and `backward`, argument checks, dispatch by device, tests |
//! | `reference.rs` | the reference implementation in ordinary tensor operations, differentiable by candle's autograd |
//! | `cpu.rs` | the fused kernels for the CPU, generic over `f32` and `f64`; `decode` has none |
//! | `cuda.rs`, `*.cu` | with the feature `cuda`: the kernels for NVIDIA GPUs, for `f32` and `bf16` activations |
//!
//! # Conventions
//!
//! - **Explicit gradients.** `forward` returns its result and the values that `backward` needs;
//!   `backward` takes them and the gradient of the result and returns the gradients of the inputs.
//!   No graph is recorded: the caller owns the order of computation and the life of every saved
//!   tensor. Inputs are not saved; the caller passes them to `backward` again.
//! - **Parameter gradients add up.** Gradients of parameters are added to a [`GradBuffer`], so that
//!   several calls (groups of patches, accumulated batches) share one buffer. Gradients of
//!   activations are returned as new tensors.
//! - **Shapes** are written `(n, t, d)`: sequences, positions, channels. Tensors may have any
//!   layout; a kernel that needs contiguous data makes it so.
//! - **Determinism.** Work is cut into pieces by size, never by the number of threads, and partial
//!   sums are added in a fixed order: results do not depend on the number of threads.
//! - **Devices.** The CPU and CUDA have fused kernels. For unsupported cases the reference
//!   implementation computes the values and candle's autograd the gradients, so every operation
//!   works on every device.
//! - **Types on CUDA.** Activations and the weights of linear layers are `f32` or `bf16`; all other
//!   parameters, states of scans and gradient buffers are `f32`, and sums run in `f32`.

#[cfg(feature = "cuda")]
#[macro_use]
pub mod cuda;

pub mod adam;
pub mod add_norm;
pub mod attention;
pub mod conv_silu;
pub mod cpu;
pub mod cross_entropy;
pub mod decode;
pub mod device;
pub mod dropout;
pub mod embedding;
pub mod gated_norm;
pub mod gelu;
pub mod layer_norm;
pub mod linear;
pub mod positions;
pub mod rope;
pub mod selective_scan;
pub mod ssd;
#[cfg(any(test, feature = "testing"))]
pub mod testing;

#[cfg(test)]
mod check;
mod fallback;
mod grad;
mod indices;
mod precision;
mod softplus;

pub use grad::GradBuffer;
pub use precision::{relative_error, widened};

#[cfg(test)]
pub(crate) use check::op_test;
