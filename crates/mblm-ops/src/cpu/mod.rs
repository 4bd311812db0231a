//! The base of the CPU kernels: access to tensor data, and products and loops of [`mblm_gemm`].
//!
//! ```
//! use mblm_ops::cpu::{Slice, from_vec};
//!
//! let tensor = from_vec(vec![1f32, 2.0], 2)?;
//! assert_eq!(Slice::<f32>::new(&tensor)?[..], [1.0, 2.0]);
//! # Ok::<(), candle_core::Error>(())
//! ```

mod access;

pub use access::{Real, Slice, from_vec, with_slice_mut};
pub(crate) use mblm_gemm::{
    Beta, Dims, Matrix, MatrixMut, PackedB, Stored, Threads, add_assign, axpy, dot, dot3, dots, dots_of_pairs, norm,
    par_chunks, par_new_rows, par_reduce, par_rows, par_zeroed, prefetch, product, product_into, split, sum, zeroed,
    zeros,
};
pub use mblm_gemm::{on_workers, par_map, threads};
