//! Dropout by a counter-based hash: whether an element is kept depends on a key and its index
//! alone.
//!
//! ```text
//! y_i = x_i · s_i,   s_i = 1 / (1 − p) where h(key, i) ≥ p · 2³², else 0
//! h(key, i) = fmix32(fmix32(i mod 2³² ⊕ k₀) + k₁),   k₁·2³² + k₀ = mix64(key + (⌊i / 2³²⌋ + 1) · 0x9E3779B97F4A7C15)
//! ```
//!
//! Here `fmix32` is the finalizer of MurmurHash3 and `mix64` the finalizer of SplitMix64; dropout
//! itself: arXiv 1207.0580. The mask is the same on every machine, thread count and device; nothing
//! is saved for the backward pass; a tensor computed in pieces gets the mask of the whole. Elements
//! are multiplied, so a dropped NaN stays NaN.
//!
//! ```
//! use candle_core::{DType, Device, Tensor};
//! use mblm_ops::dropout::{self, Dropout};
//!
//! let x = Tensor::ones(1000, DType::F32, &Device::Cpu)?;
//! let dropout = Dropout { probability: 0.5, key: 7, first: 0 };
//! let y: Vec<f32> = dropout::apply(&x, &dropout)?.to_vec1()?;
//! assert!(y.iter().all(|y| *y == 0.0 || *y == 2.0));
//! # Ok::<(), candle_core::Error>(())
//! ```

mod cpu;
#[cfg(feature = "cuda")]
mod cuda;
pub(crate) mod reference;

use candle_core::{DType, Result, Tensor};

/// Which elements of a tensor are dropped.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Dropout {
    /// The share of dropped elements, in [0, 1].
    pub probability: f64,
    /// Selects the mask: draw a new key for every layer and step.
    pub key: u64,
    /// The index of the tensor's first element in the whole that shares the mask; 0 for a whole
    /// tensor.
    pub first: u64,
}

/// Applies the mask to `x`: the forward pass and, for a gradient, the backward pass.
///
/// Elements count in row-major order.
///
/// # Errors
/// A probability outside [0, 1].
pub fn apply(x: &Tensor, dropout: &Dropout) -> Result<Tensor> {
    if !(0.0..=1.0).contains(&dropout.probability) {
        candle_core::bail!(
            "dropout: expected a probability in [0, 1], found {}",
            dropout.probability
        );
    }
    match (x.device().is_cpu(), x.dtype()) {
        (true, DType::F32) => cpu::apply::<f32>(x, dropout),
        (true, DType::F64) => cpu::apply::<f64>(x, dropout),
        #[cfg(feature = "cuda")]
        _ if crate::cuda::takes(x) => cuda::apply(x, dropout),
        _ => reference::apply(x, dropout),
    }
}

impl Dropout {
    /// Whether element `element` of the tensor, counted from its first element, is kept.
    #[inline]
    pub fn keeps(&self, element: u64) -> bool {
        let index = self.first.wrapping_add(element);
        self.probability < 1.0 && hash(self.keys(index), index as u32) >= self.threshold()
    }

    /// The factor of kept elements: 1 / (1 − probability), or 0 if nothing is kept.
    #[inline]
    pub fn scale(&self) -> f64 {
        if self.probability < 1.0 {
            1.0 / (1.0 - self.probability)
        } else {
            0.0
        }
    }

    /// Elements with a smaller hash are dropped.
    ///
    /// At probability 1 the threshold is one too small, and [`Self::scale`] is 0.
    #[inline]
    fn threshold(&self) -> u32 {
        (self.probability * 4_294_967_296.0).round() as u32
    }

    /// The keys [k₀, k₁] of the 2³² elements around `index`.
    #[inline]
    fn keys(&self, index: u64) -> [u32; 2] {
        let stream = (index >> 32) + 1;
        let mut z = self.key.wrapping_add(stream.wrapping_mul(0x9E37_79B9_7F4A_7C15));
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^= z >> 31;
        [z as u32, (z >> 32) as u32]
    }
}

/// 32 random bits for the element whose index ends in `low`.
#[inline(always)]
fn hash([k0, k1]: [u32; 2], low: u32) -> u32 {
    fmix32(fmix32(low ^ k0).wrapping_add(k1))
}

#[inline(always)]
fn fmix32(mut h: u32) -> u32 {
    h = (h ^ (h >> 16)).wrapping_mul(0x85EB_CA6B);
    h = (h ^ (h >> 13)).wrapping_mul(0xC2B2_AE35);
    h ^ (h >> 16)
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Result};

    use super::*;
    use crate::check::Harness;
    use crate::op_test;
    use crate::testing::uniform;

    fn dropout(probability: f64, key: u64, first: u64) -> Dropout {
        Dropout {
            probability,
            key,
            first,
        }
    }

    macro_rules! check {
        ($shape:expr, $dropout:expr) => {
            Harness::new("dropout", &[$shape])
                .reference(|t| Ok(vec![reference::apply(&t[0], &$dropout)?]))
                .fused(|t| Ok((vec![apply(&t[0], &$dropout)?], ())))
                .backward(|_, (), dy, _| Ok(vec![Some(apply(dy[0], &$dropout)?)]))
        };
    }

    op_test! {
        a_tenth: check!(&[2, 3, 17], dropout(0.1, 7, 0))
        over_the_end_of_a_key: check!(&[5, 9], dropout(0.5, 8, (1 << 32) - 20))
        over_the_end_of_the_indices: check!(&[40], dropout(0.5, 8, u64::MAX - 20))
        nothing: check!(&[30], dropout(0.0, 9, 3))
        everything: check!(&[30], dropout(1.0, 9, 3))
    }

    /// The first 64 elements of three masks, computed by a Python script from the formula above.
    #[test]
    fn the_mask_is_the_published_one() {
        for (dropout, expected) in [
            (dropout(0.5, 7, 0), 0xafea_bb69_8f4f_dc30_u64),
            (dropout(0.1, u64::MAX, 0), 0xfffd_b7ff_ffff_ffff),
            (dropout(0.3, 12345, (1 << 32) - 32), 0x96a3_dcbb_bf6e_fb3f),
        ] {
            let mask = (0..64).fold(0u64, |mask, i| mask | (u64::from(dropout.keeps(i)) << i));
            assert_eq!(mask, expected, "{dropout:?}: {mask:#018x}");
        }
    }

    #[test]
    fn pieces_get_the_mask_of_the_whole() -> Result<()> {
        let x = uniform(&[70_000], 1)?;
        let whole = apply(&x, &dropout(0.3, 5, 11))?.to_vec1::<f64>()?;
        let pieces = [(0, 1), (1, 40_000), (40_001, 29_999)].map(|(start, len)| {
            apply(&x.narrow(0, start, len)?, &dropout(0.3, 5, 11 + start as u64))?.to_vec1::<f64>()
        });
        let pieces = pieces.into_iter().collect::<Result<Vec<_>>>()?.concat();
        assert_eq!(whole, pieces);
        Ok(())
    }

    #[test]
    fn threads_do_not_matter() -> Result<()> {
        let x = uniform(&[100_003], 1)?;
        let mut results = Vec::new();
        for threads in [1, 3] {
            let pool = rayon::ThreadPoolBuilder::new()
                .num_threads(threads)
                .build()
                .expect("a small pool");
            results.push(pool.install(|| apply(&x, &dropout(0.2, 1, 0))?.to_vec1::<f64>())?);
        }
        assert_eq!(results[0], results[1]);
        Ok(())
    }

    #[test]
    fn elements_and_keys_are_independent() {
        const COUNT: u64 = 200_000;
        for probability in [0.1, 0.5, 0.9] {
            let p = dropout(probability, 1, 0);
            let (next_key, keep) = (dropout(probability, 2, 0), 1.0 - probability);
            let share = |both: &dyn Fn(u64) -> bool| (0..COUNT).filter(|i| both(*i)).count() as f64 / COUNT as f64;
            // five standard deviations of a share among COUNT
            let margin = |share: f64| 5.0 * (share * (1.0 - share) / COUNT as f64).sqrt();
            assert!((share(&|i| p.keeps(i)) - keep).abs() < margin(keep));
            for distance in [1, 2, 8, 64, 1000, 1 << 16, 1 << 32] {
                let both = share(&|i| p.keeps(i) && p.keeps(i + distance));
                assert!(
                    (both - keep * keep).abs() < margin(keep * keep),
                    "distance {distance}: {both}"
                );
            }
            let both = share(&|i| p.keeps(i) && next_key.keeps(i));
            assert!((both - keep * keep).abs() < margin(keep * keep), "next key: {both}");
        }
    }

    #[test]
    fn nan_stays_nan_where_dropped() -> Result<()> {
        let x = Tensor::full(f32::NAN, 50, &Device::Cpu)?;
        for y in [
            apply(&x, &dropout(0.5, 1, 0))?,
            reference::apply(&x, &dropout(0.5, 1, 0))?,
        ] {
            assert!(y.to_vec1::<f32>()?.iter().all(|y| y.is_nan()));
        }
        Ok(())
    }

    #[test]
    fn half_precision_gets_the_same_mask() -> Result<()> {
        let dropout = dropout(0.5, 3, 0);
        let y = apply(&Tensor::ones((4, 8), DType::BF16, &Device::Cpu)?, &dropout)?;
        let y = y.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()?;
        for (i, y) in y.into_iter().enumerate() {
            assert_eq!(y, if dropout.keeps(i as u64) { 2.0 } else { 0.0 });
        }
        Ok(())
    }

    #[test]
    fn probabilities_outside_the_unit_interval_are_errors() -> Result<()> {
        let x = uniform(&[3], 1)?;
        for probability in [-0.1, 1.1, f64::NAN] {
            assert!(apply(&x, &dropout(probability, 1, 0)).is_err());
        }
        Ok(())
    }
}
