//! What the CPU kernels share: typed access to tensor data, deterministic parallel loops and vector arithmetic.

mod access;
mod amx;
pub(crate) mod bf16;
mod gemm;
mod math;
pub(crate) mod norm;
mod panels;
mod parallel;
mod rows;

pub use access::{Slice, from_vec, prefetch, with_slice_mut};
#[cfg(target_arch = "x86_64")]
pub(crate) use amx::Unit as TileUnit;
pub(crate) use gemm::{Matrix, new_product, product};
pub use math::{Real, add_assign, axpy, dot, dots, dots_of_pairs, sum};
pub(crate) use panels::{Panels, Stored};
pub use parallel::{on_workers, par_chunks, par_map, par_new, par_reduce, par_zeroed, split, threads, zeroed, zeros};
pub use rows::{par_new_rows, par_rows};
