//! The peak speed of a machine, measured by a plain matrix product and a copy.
//!
//! The product is (R, D) · (D, 4·D): R = 4096 in float32 on the CPU, R = 65,536 in the requested
//! precision on a GPU. The copy moves 1 GiB on a GPU, 256 MiB on the CPU with one thread per core;
//! reads and writes both count.
//!
//! ```
//! use mblm::machine::speed::Spread;
//!
//! assert_eq!(Spread::of(vec![3.0, 1.0, 2.0]).median, 2.0);
//! ```

use std::time::Instant;

use candle_core::{DType, Device, Tensor};
use serde::Serialize;

use crate::config::Precision;
use crate::{Result, threads};

/// Rows of the product on the CPU.
const PRODUCT_ROWS: usize = 4096;
/// Rows of the product on a GPU.
const PRODUCT_ROWS_OF_GPU: usize = 65_536;
/// Bytes copied on the CPU.
const COPIED: usize = 1 << 28;
/// Bytes copied on a GPU.
const COPIED_ON_GPU: usize = 1 << 30;

/// The spread of repeated measurements.
#[derive(Clone, Debug, Serialize)]
pub struct Spread {
    /// The median.
    pub median: f64,
    /// The smallest.
    pub smallest: f64,
    /// The largest.
    pub largest: f64,
    /// The number of values.
    pub repetitions: usize,
}

impl Spread {
    /// Returns the spread of these values; NaN if there are none.
    pub fn of(mut values: Vec<f64>) -> Self {
        values.sort_by(f64::total_cmp);
        let count = values.len();
        let at = |index: usize| values.get(index).copied().unwrap_or(f64::NAN);
        Self {
            median: (at(count.saturating_sub(1) / 2) + at(count / 2)) / 2.0,
            smallest: at(0),
            largest: at(count.saturating_sub(1)),
            repetitions: count,
        }
    }

    /// Returns `amount` divided by each value: speeds from times.
    #[must_use]
    pub fn reciprocal(&self, amount: f64) -> Self {
        Self {
            median: amount / self.median,
            smallest: amount / self.largest,
            largest: amount / self.smallest,
            repetitions: self.repetitions,
        }
    }

    /// Calls `run` once to warm up, then `repetitions` times, and returns the spread of its values.
    ///
    /// # Errors
    /// The first error of `run`.
    pub fn measure(repetitions: usize, mut run: impl FnMut() -> Result<f64>) -> Result<Self> {
        run()?;
        Ok(Self::of((0..repetitions).map(|_| run()).collect::<Result<_>>()?))
    }
}

/// A matrix product (R, D) · (D, 4·D).
pub struct Product {
    x: Tensor,
    weight: Tensor,
}

impl Product {
    /// Allocates the product with D = `width`, on a GPU in `precision`.
    ///
    /// # Errors
    /// A failing device.
    pub fn new(width: usize, precision: Precision, device: &Device) -> Result<Self> {
        let (rows, dtype) = match device.is_cpu() {
            true => (PRODUCT_ROWS, DType::F32),
            false if precision.is_bf16(device) => (PRODUCT_ROWS_OF_GPU, DType::BF16),
            false => (PRODUCT_ROWS_OF_GPU, DType::F32),
        };
        let tensor = |shape: (usize, usize)| Tensor::rand(-1f32, 1f32, shape, device)?.to_dtype(dtype);
        Ok(Self {
            x: tensor((rows, width))?,
            weight: tensor((4 * width, width))?,
        })
    }

    /// Measures one product, in FLOP/s.
    ///
    /// # Errors
    /// A failing device.
    pub fn run(&self) -> Result<f64> {
        let (rows, inputs) = self.x.dims2()?;
        let outputs = self.weight.dim(0)?;
        self.x.device().synchronize()?;
        let begun = Instant::now();
        self.x.matmul(&self.weight.t()?)?;
        self.x.device().synchronize()?;
        Ok(2.0 * (rows * inputs * outputs) as f64 / begun.elapsed().as_secs_f64())
    }
}

/// A copy from one region of memory to another.
pub struct MemoryCopy(Copied);

enum Copied {
    Memory { from: Vec<u8>, to: Vec<u8> },
    Device(Tensor),
}

impl MemoryCopy {
    /// Allocates memory on `device`.
    ///
    /// # Errors
    /// A failing device.
    pub fn new(device: &Device) -> Result<Self> {
        Ok(Self(match device {
            Device::Cpu => Copied::Memory {
                from: vec![1; COPIED],
                to: vec![0; COPIED],
            },
            device => Copied::Device(Tensor::ones(COPIED_ON_GPU / 4, DType::F32, device)?),
        }))
    }

    /// Measures one copy, in bytes per second; reads and writes both count.
    ///
    /// # Errors
    /// A failing device.
    pub fn run(&mut self) -> Result<f64> {
        let (bytes, begun) = match &mut self.0 {
            Copied::Memory { from, to } => {
                let each = from.len().div_ceil(threads()).max(1);
                let begun = Instant::now();
                std::thread::scope(|scope| {
                    for (from, to) in from.chunks(each).zip(to.chunks_mut(each)) {
                        scope.spawn(|| to.copy_from_slice(from));
                    }
                });
                (from.len(), begun)
            }
            Copied::Device(tensor) => {
                tensor.device().synchronize()?;
                let begun = Instant::now();
                tensor.copy()?;
                tensor.device().synchronize()?;
                (4 * tensor.elem_count(), begun)
            }
        };
        Ok(2.0 * bytes as f64 / begun.elapsed().as_secs_f64())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_spread_of_values() {
        let spread = Spread::of(vec![3.0, 1.0, 2.0, 10.0]);
        assert_eq!((spread.median, spread.smallest, spread.largest), (2.5, 1.0, 10.0));
        assert_eq!(Spread::of(vec![5.0]).median, 5.0);
        assert!(Spread::of(Vec::new()).median.is_nan());
    }

    #[test]
    fn a_product_and_a_copy_take_time() -> Result<()> {
        assert!(Product::new(8, Precision::Auto, &Device::Cpu)?.run()?.is_finite());
        let speed = MemoryCopy::new(&Device::Cpu)?.run()?;
        assert!(speed.is_finite() && speed > 0.0);
        Ok(())
    }
}
