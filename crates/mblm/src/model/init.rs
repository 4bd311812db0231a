//! First values of parameters: seeded, and the same on every machine.
//!
//! Each tensor has its own generator, seeded by the model's seed and the tensor's name, so adding a
//! layer changes no other tensor. Only exact arithmetic and `libm` are used.

use candle_core::{DType, Device, Tensor};
use rand_core::{Rng, SeedableRng};
use rand_pcg::Pcg64Mcg;

use crate::Result;

/// The initial distribution of a parameter.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Init {
    /// All zeros.
    Zeros,
    /// All ones.
    Ones,
    /// Normal with mean 0 and this standard deviation.
    Normal(f64),
    /// Normal rows (standard deviation 1), except this row, which is zero: embeddings with padding.
    NormalExceptRow(usize),
    /// Uniform in ±bound.
    Uniform(f64),
    /// A scan's step-size bias: softplus⁻¹ of log-uniform steps in [0.001, 0.1], at least 1e-4.
    TimeStepBias,
    /// ln U(1, 16): the log decays of a scan, one per head.
    LogUniform,
    /// ln 1, ln 2, … ln n in each row of n: the log decays of a scan, one per state.
    LogCount,
}

impl Init {
    /// The default of linear layers with this number of inputs: uniform in ±1/√inputs.
    pub fn linear(inputs: usize) -> Self {
        Self::Uniform(1.0 / (inputs as f64).sqrt())
    }

    fn fill(self, shape: &[usize], rng: &mut Pcg64Mcg) -> Vec<f64> {
        let count: usize = shape.iter().product();
        let row = shape.last().copied().unwrap_or(1).max(1);
        let mut value = |index: usize| match self {
            Self::Zeros => 0.0,
            Self::Ones => 1.0,
            Self::Normal(deviation) => deviation * normal(rng),
            Self::NormalExceptRow(zero) => {
                let value = normal(rng);
                if index / row == zero { 0.0 } else { value }
            }
            Self::Uniform(bound) => bound * (2.0 * unit(rng) - 1.0),
            Self::TimeStepBias => {
                let (low, high) = (libm::log(0.001), libm::log(0.1));
                let step = libm::exp(low + unit(rng) * (high - low)).max(1e-4);
                step + libm::log(-libm::expm1(-step))
            }
            Self::LogUniform => libm::log(1.0 + 15.0 * unit(rng)),
            Self::LogCount => libm::log((index % row + 1) as f64),
        };
        (0..count).map(&mut value).collect()
    }
}

/// Uniform in [0, 1), with 53 random bits.
fn unit(rng: &mut Pcg64Mcg) -> f64 {
    (rng.next_u64() >> 11) as f64 / (1u64 << 53) as f64
}

/// Normal, by Box and Muller's method.
fn normal(rng: &mut Pcg64Mcg) -> f64 {
    let radius = (-2.0 * libm::log(1.0 - unit(rng))).sqrt();
    radius * libm::cos(2.0 * std::f64::consts::PI * unit(rng))
}

/// A source of initial parameter values: a seed or a file.
pub trait ParameterSource {
    /// Returns the tensor of this name and shape; `init` is its distribution in a new model.
    fn tensor(&self, name: &str, shape: &[usize], init: Init, dtype: DType, device: &Device) -> Result<Tensor>;
}

/// New parameters from a seed.
#[derive(Clone, Copy, Debug)]
pub struct Seeded(pub u64);

impl ParameterSource for Seeded {
    fn tensor(&self, name: &str, shape: &[usize], init: Init, dtype: DType, device: &Device) -> Result<Tensor> {
        // FNV-1a over the seed and the name: a fixed function, unlike the standard library's hasher
        let bytes = self.0.to_le_bytes().into_iter().chain(name.bytes());
        let hash = bytes.fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
        });
        let values = init.fill(shape, &mut Pcg64Mcg::seed_from_u64(hash));
        Ok(Tensor::from_vec(values, shape, &Device::Cpu)?
            .to_dtype(dtype)?
            .to_device(device)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(name: &str, init: Init, shape: &[usize]) -> Vec<f32> {
        let tensor = Seeded(7).tensor(name, shape, init, DType::F32, &Device::Cpu);
        tensor
            .and_then(|t| Ok(t.flatten_all()?.to_vec1()?))
            .expect("a small tensor")
    }

    #[test]
    fn values_are_pinned_so_that_a_seed_means_the_same_everywhere() {
        let found = values("to_logits.weight", Init::Normal(1.0), &[3]);
        let pinned = [0.265_603_63, 1.680_250_6, -0.422_555_77];
        assert_eq!(found, pinned, "{found:?}");
    }

    #[test]
    fn tensors_of_other_names_differ() {
        assert_ne!(values("a", Init::linear(4), &[8]), values("b", Init::linear(4), &[8]));
    }

    #[test]
    fn distributions_have_the_moments_they_should() {
        let normal = values("n", Init::Normal(2.0), &[20_000]);
        let mean = normal.iter().sum::<f32>() / 20_000.0;
        let variance = normal.iter().map(|x| (x - mean).powi(2)).sum::<f32>() / 20_000.0;
        assert!(mean.abs() < 0.06 && (variance - 4.0).abs() < 0.15, "{mean} {variance}");
        let uniform = values("u", Init::linear(16), &[20_000]);
        assert!(uniform.iter().all(|x| x.abs() <= 0.25));
        assert!(uniform.iter().any(|x| *x > 0.24) && uniform.iter().any(|x| *x < -0.24));
    }

    #[test]
    fn special_rows_and_ranges() {
        let table = values("e", Init::NormalExceptRow(1), &[3, 4]);
        assert!(table[4..8].iter().all(|x| *x == 0.0) && table[..4].iter().all(|x| *x != 0.0));
        // softplus of the bias is the step size
        for bias in values("dt", Init::TimeStepBias, &[1000]) {
            let step = f64::from(bias).exp().ln_1p();
            assert!((0.00099..=0.1001).contains(&step), "{step}");
        }
        assert!(
            values("a", Init::LogUniform, &[1000])
                .iter()
                .all(|x| (0.0..=16f32.ln()).contains(x))
        );
        assert_eq!(values("a", Init::LogCount, &[2, 2]), [0.0, 2f32.ln(), 0.0, 2f32.ln()]);
    }
}
