//! Scalar functions written so that the compiler turns loops over them into vector code, and loops over slices.
//!
//! The `f32` functions are polynomials and bit operations without branches or library calls; the `f64` ones, which only
//! the checks against finite differences use, call `libm`.

use candle_core::{CpuStorage, Result, WithDType};
use multiversion::multiversion;
use num_traits::Float;

/// The element types of the CPU kernels: `f32` for work, `f64` for the checks.
pub trait Real: WithDType + Float + std::iter::Sum + std::ops::AddAssign {
    /// The elements of a storage of this type.
    fn storage_mut(storage: &mut CpuStorage) -> Result<&mut [Self]>;

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

    /// ln(1 + e^self), without overflow: max(self, 0) + ln(1 + u) with u = e^-|self|, and ln(1 + u) = 2 artanh(s) with
    /// s = u / (2 + u) ≤ 1/3 as a power series in s².
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

    /// The number `value`.
    #[inline(always)]
    fn of(value: f64) -> Self {
        Self::from_f64(value)
    }
}

impl Real for f32 {
    const ARTANH_TERMS: usize = 8;

    fn storage_mut(storage: &mut CpuStorage) -> Result<&mut [Self]> {
        match storage {
            CpuStorage::F32(data) => Ok(data),
            _ => candle_core::bail!("expected a tensor of f32"),
        }
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

    /// Rational approximation x·P(x²)/Q(x²) on [-4, 4], beyond which erf is ±1 in `f32`; absolute error below 5e-7.
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

    fn storage_mut(storage: &mut CpuStorage) -> Result<&mut [Self]> {
        match storage {
            CpuStorage::F64(data) => Ok(data),
            _ => candle_core::bail!("expected a tensor of f64"),
        }
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

/// Independent partial sums of the reductions below: enough to fill a vector register of 16 `f32`.
const LANES: usize = 16;

/// `to[i] += from[i]`.
#[multiversion(targets("x86_64+avx512f+avx512vl+fma", "x86_64+avx2+fma"))]
pub fn add_assign<T: Real>(to: &mut [T], from: &[T]) {
    for (to, from) in to.iter_mut().zip(from) {
        *to += *from;
    }
}

/// `to[i] += factor · from[i]`.
#[inline(always)]
pub fn axpy<T: Real>(to: &mut [T], factor: T, from: &[T]) {
    for (to, from) in to.iter_mut().zip(from) {
        *to += factor * *from;
    }
}

/// `Σ a[i]·b[i]`, in a fixed order.
#[inline(always)]
pub fn dot<T: Real>(a: &[T], b: &[T]) -> T {
    let mut lanes = [T::zero(); LANES];
    let (a_chunks, a_rest) = a.as_chunks::<LANES>();
    let (b_chunks, b_rest) = b.as_chunks::<LANES>();
    for (a, b) in a_chunks.iter().zip(b_chunks) {
        for lane in 0..LANES {
            lanes[lane] += a[lane] * b[lane];
        }
    }
    let mut total = T::zero();
    for lane in lanes {
        total += lane;
    }
    for (a, b) in a_rest.iter().zip(b_rest) {
        total += *a * *b;
    }
    total
}

/// `out[j] = x · row j`, where row j begins `j · stride` elements into `rows`; each product is summed in the same order whatever
/// the number of rows.
#[inline(always)]
pub fn dots<T: Real>(out: &mut [T], x: &[T], rows: &[T], stride: usize) {
    dots_of_rows(out, (x, 0), (rows, stride), x.len());
}

/// `out[j] = x_j · row j` of consecutive vectors of `len` elements, summed as in [`dots`].
#[inline(always)]
pub fn dots_of_pairs<T: Real>(out: &mut [T], x: &[T], rows: &[T], len: usize) {
    dots_of_rows(out, (x, len), (rows, len), len);
}

/// First the lanes' sums of a group of rows, then the sums of the lanes: apart, both become vector code.
#[inline(always)]
fn dots_of_rows<T: Real>(out: &mut [T], (x, x_stride): (&[T], usize), (rows, stride): (&[T], usize), len: usize) {
    const GROUP: usize = 8;
    let mut sums = [[T::zero(); LANES]; GROUP];
    for (group, out) in out.chunks_mut(GROUP).enumerate() {
        for (index, sums) in sums[..out.len()].iter_mut().enumerate() {
            let index = group * GROUP + index;
            let (x_chunks, x_rest) = x[index * x_stride..][..len].as_chunks::<LANES>();
            let (row_chunks, row_rest) = rows[index * stride..][..len].as_chunks::<LANES>();
            let mut lanes = [T::zero(); LANES];
            for (x, row) in x_chunks.iter().zip(row_chunks) {
                for lane in 0..LANES {
                    lanes[lane] += x[lane] * row[lane];
                }
            }
            add_rest(&mut lanes, x_rest, row_rest);
            *sums = lanes;
        }
        for (out, sums) in out.iter_mut().zip(&sums) {
            *out = sum_of_lanes(*sums);
        }
    }
}

#[inline(always)]
fn add_rest<T: Real>(lanes: &mut [T; LANES], x: &[T], row: &[T]) {
    for (lane, (x, row)) in lanes.iter_mut().zip(x.iter().zip(row)) {
        *lane += *x * *row;
    }
}

/// The sum of the lanes, by halves.
#[inline(always)]
fn sum_of_lanes<T: Real>(mut lanes: [T; LANES]) -> T {
    let mut width = LANES / 2;
    while width > 0 {
        for lane in 0..width {
            lanes[lane] += lanes[lane + width];
        }
        width /= 2;
    }
    lanes[0]
}

/// `Σ a[i]`, in a fixed order.
#[inline(always)]
pub fn sum<T: Real>(a: &[T]) -> T {
    let mut lanes = [T::zero(); LANES];
    let (chunks, rest) = a.as_chunks::<LANES>();
    for a in chunks {
        for lane in 0..LANES {
            lanes[lane] += a[lane];
        }
    }
    let mut total = T::zero();
    for lane in lanes {
        total += lane;
    }
    for a in rest {
        total += *a;
    }
    total
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
            // relative where the result is a normal number, absolute below
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

    #[test]
    fn reductions_cover_every_element() {
        for len in [0usize, 1, 15, 16, 17, 100] {
            let a: Vec<f64> = (0..len).map(|i| i as f64).collect();
            assert_eq!(sum(&a), (len * len.saturating_sub(1) / 2) as f64);
            assert_eq!(dot(&a, &a), a.iter().map(|x| x * x).sum::<f64>());
        }
    }
}
