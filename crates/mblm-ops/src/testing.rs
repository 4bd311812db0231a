//! Data for tests and benchmarks of this and dependent crates, with the feature `testing`.
//!
//! ```
//! let x = mblm_ops::testing::uniform(&[2, 3], 1)?;
//! assert_eq!(x.dims(), [2, 3]);
//! # Ok::<(), candle_core::Error>(())
//! ```

use candle_core::{Device, Result, Tensor};
use rand_core::{Rng, SeedableRng};
use rand_pcg::Pcg64Mcg;

/// Reproducible test data: uniform in [-1, 1), `f64`, on the CPU.
pub fn uniform(shape: &[usize], seed: u64) -> Result<Tensor> {
    let mut rng = Pcg64Mcg::seed_from_u64(seed);
    let count: usize = shape.iter().product();
    let data: Vec<f64> = (0..count)
        .map(|_| (rng.next_u64() >> 11) as f64 / (1u64 << 52) as f64 - 1.0)
        .collect();
    Tensor::from_vec(data, shape, &Device::Cpu)
}
