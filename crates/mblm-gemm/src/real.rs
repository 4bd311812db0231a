//! The number types of the kernels, and functions of them that vectorize in loops.
//!
//! The `f32` functions are polynomials and bit operations without branches or library calls. The
//! `f64` functions, used by finite-difference checks, call `libm`.

use std::fmt::Debug;
use std::iter::Sum;

use num_traits::{Float, NumAssign};

/// A number type: `f32` for work, `f64` for checks.
///
/// ```
/// use mblm_gemm::Real;
///
/// assert_eq!(0f32.fast_exp(), 1.0);
/// assert_eq!(0f32.sigmoid(), 0.5);
/// ```
pub trait Real: Float + NumAssign + Sum + Debug + Send + Sync + 'static {
    /// Terms of artanh's power series that reach the type's precision on [0, 1/3].
    const ARTANH_TERMS: usize;

    /// e^self; NaN stays NaN.
    fn fast_exp(self) -> Self;

    /// The error function; NaN stays NaN.
    fn fast_erf(self) -> Self;

    /// 1 / (1 + e^-self).
    #[inline(always)]
    fn sigmoid(self) -> Self {
        Self::one() / (Self::one() + (-self).fast_exp())
    }

    /// ln(1 + e^self), without overflow.
    ///
    /// max(self, 0) + ln(1 + u) with u = e^-|self|, where ln(1 + u) = 2 artanh(s) is a power series
    /// in s² with s = u / (2 + u) ≤ 1/3.
    #[inline(always)]
    fn softplus(self) -> Self {
        let positive = if self > Self::zero() { self } else { Self::zero() };
        let magnitude = if self > Self::zero() { self } else { -self };
        let u = (-magnitude).fast_exp();
        let s = u / (u + Self::of(2.0));
        let s2 = s * s;
        let mut series = Self::zero();
        for term in (0..Self::ARTANH_TERMS).rev() {
            series = series * s2 + Self::of(1.0 / (2 * term + 1) as f64);
        }
        positive + Self::of(2.0) * s * series
    }

    /// The number of this type nearest to `value`.
    fn of(value: f64) -> Self;
}

impl Real for f32 {
    const ARTANH_TERMS: usize = 8;

    #[inline(always)]
    fn of(value: f64) -> Self {
        value as f32
    }

    /// Cody and Waite range reduction, then a polynomial of degree 6; relative error below 2e-7.
    #[inline(always)]
    fn fast_exp(self) -> f32 {
        const LOW: f32 = -104.0; // e^LOW rounds to 0
        const HIGH: f32 = 89.0; // e^HIGH is infinite
        const ROUND: f32 = 12_582_912.0; // 1.5 · 2^23: adding and subtracting it rounds to an integer
        const LN2_HIGH: f32 = 0.693_359_4;
        const LN2_LOW: f32 = -2.121_944_4e-4;
        let x = if self > HIGH { HIGH } else { self };
        let x = if x < LOW { LOW } else { x };
        let shifted = x * std::f32::consts::LOG2_E + ROUND;
        let n = shifted - ROUND;
        let exponent = (shifted.to_bits() as i32).wrapping_sub(ROUND.to_bits() as i32);
        let r = x - n * LN2_HIGH - n * LN2_LOW;
        let p = 1.987_569_1e-4;
        let p = p * r + 1.398_199_9e-3;
        let p = p * r + 8.333_452e-3;
        let p = p * r + 4.166_579_6e-2;
        let p = p * r + 1.666_666_5e-1;
        let p = p * r + 0.5;
        let p = p * r * r + r + 1.0;
        // 2^exponent in two factors, so that neither leaves the range of normal numbers
        let half = exponent >> 1;
        let first = f32::from_bits((half.wrapping_add(127) << 23) as u32);
        let second = f32::from_bits((exponent.wrapping_sub(half).wrapping_add(127) << 23) as u32);
        p * first * second
    }

    /// Rational approximation x·P(x²)/Q(x²) on [-4, 4], beyond which erf is ±1 in `f32`.
    ///
    /// The absolute error is below 5e-7.
    #[inline(always)]
    fn fast_erf(self) -> f32 {
        let x = if self > 4.0 { 4.0 } else { self };
        let x = if x < -4.0 { -4.0 } else { x };
        let x2 = x * x;
        let p = -2.726_142_3e-10;
        let p = p * x2 + 2.770_681_4e-8;
        let p = p * x2 - 2.101_024e-6;
        let p = p * x2 - 5.692_506_4e-5;
        let p = p * x2 - 7.349_906_3e-4;
        let p = p * x2 - 2.954_6e-3;
        let p = p * x2 - 1.609_603_3e-2;
        let q = -1.456_607_2e-5;
        let q = q * x2 - 2.133_740_5e-4;
        let q = q * x2 - 1.682_827e-3;
        let q = q * x2 - 7.373_329e-3;
        let q = q * x2 - 1.426_473_9e-2;
        x * p / q
    }
}

impl Real for f64 {
    const ARTANH_TERMS: usize = 17;

    #[inline(always)]
    fn of(value: f64) -> Self {
        value
    }

    #[inline(always)]
    fn fast_exp(self) -> f64 {
        libm::exp(self)
    }

    #[inline(always)]
    fn fast_erf(self) -> f64 {
        libm::erf(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_agrees_with_double_precision_over_its_range() {
        for i in -10_300..8_870 {
            let x = i as f32 / 100.0;
            let exact = libm::exp(f64::from(x));
            let error = (f64::from(x.fast_exp()) - exact).abs();
            // relative error for normal results, absolute error below
            assert!(
                error <= 2.5e-7 * exact + 3e-45,
                "exp({x}): {} against {exact}",
                x.fast_exp()
            );
        }
        assert_eq!(200f32.fast_exp(), f32::INFINITY);
        assert_eq!((-200f32).fast_exp(), 0.0);
        assert!(f32::NAN.fast_exp().is_nan());
    }

    #[test]
    fn erf_agrees_with_double_precision_over_its_range() {
        for i in -600..=600 {
            let x = i as f32 / 100.0;
            let error = (f64::from(x.fast_erf()) - libm::erf(f64::from(x))).abs();
            assert!(error <= 5e-7, "erf({x}) is off by {error}");
        }
        assert!(f32::NAN.fast_erf().is_nan());
    }

    #[test]
    fn softplus_neither_overflows_nor_vanishes() {
        assert_eq!(100f32.softplus(), 100.0);
        assert!((0f64.softplus() - std::f64::consts::LN_2).abs() < 1e-15);
        assert!((-50f64).softplus() > 0.0);
        for i in -300..300 {
            let x = f64::from(i) / 10.0;
            let exact = libm::log1p(libm::exp(x));
            assert!((x.softplus() - exact).abs() <= 1e-15 * exact, "softplus({x})");
            let single = f64::from((x as f32).softplus());
            let exact = libm::log1p(libm::exp(f64::from(x as f32)));
            assert!((single - exact).abs() <= 4e-7 * exact, "softplus({x}) in f32");
        }
    }
}
