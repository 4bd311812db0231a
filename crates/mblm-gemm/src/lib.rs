//! Matrix products, parallel loops and vector arithmetic on slices, for neural-network CPU kernels.
//!
//! | module | holds |
//! |---|---|
//! | `product` | C = β C + A B of strided matrices ([`product()`], [`product_into`]), a block of C on each thread |
//! | [`bf16`] | the same for numbers rounded to bfloat16: in AMX tiles, in vectors of VNNI pairs, or in `f32` |
//! | `packed` | B packed once, for products with few rows ([`PackedB`]) |
//! | `parallel`, `rows` | loops over chunks of slices and over rows of tables |
//! | `vector`, [`norm`] | sums and other arithmetic on slices |
//! | `real` | the types of numbers, and functions of them that become vector code ([`Real`]) |
//! | `processor` | the features of the processor ([`processor()`]) |
//!
//! The terms are those of BLIS. A product is computed in blocks of MC rows and NC columns of C and
//! KC steps along k. Packed A lies in micro-panels of MR rows, packed B in micro-panels of NR
//! columns: the micro-kernel, which keeps a micro-tile of MR × NR sums in registers, reads both
//! sequentially. A VNNI pair is two steps along k of one row or column, side by side.
//!
//! **Results do not depend on the number of threads.** Loops are cut by size, and partial sums are
//! added in a fixed order. Products are cut by the number of threads, but each element of C is
//! summed along k in an order that depends on the sizes alone.

mod amx;
pub mod bf16;
mod matrix;
pub mod norm;
mod packed;
mod parallel;
mod partition;
mod processor;
mod product;
mod real;
mod rounding;
mod rows;
#[cfg(test)]
mod test_data;
mod vector;

pub use matrix::{Beta, Dims, Matrix, MatrixMut, Threads};
pub use packed::{PackedB, Stored};
pub use parallel::{on_workers, par_chunks, par_map, par_new, par_reduce, par_zeroed, split, threads, zeroed, zeros};
pub use processor::{Processor, processor};
pub use product::{product, product_into};
pub use real::Real;
pub use rows::{par_new_rows, par_rows};
pub use vector::{add_assign, axpy, dot, dot3, dots, dots_of_pairs, prefetch, sum};
