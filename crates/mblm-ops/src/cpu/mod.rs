//! What the CPU kernels share: typed access to tensor data, deterministic parallel loops and vector arithmetic.

mod access;
mod math;
mod parallel;

pub use access::{Slice, from_vec, with_slice_mut};
pub use math::{Real, add_assign, axpy, dot, sum};
pub use parallel::{par_chunks, par_reduce, threads};
