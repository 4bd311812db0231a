//! softplus(x) = ln(1 + eˣ) in ordinary tensor operations, for the reference implementations.
//!
//! max(x, 0) + ln(1 + u) with u = e^-|x|, where ln(1 + u) = 2 artanh(u / (2 + u)) is a power
//! series. Unlike the logarithm of a rounded 1 + u, the series keeps its relative precision for
//! small results, such as the time steps of a scan.

use candle_core::{Result, Tensor};

/// Terms of the series: artanh's argument is at most 1/3, and 9^-17 is below the precision of
/// `f64`.
const TERMS: usize = 17;

/// ln(1 + eˣ), of any shape, differentiable by candle.
pub(crate) fn softplus(x: &Tensor) -> Result<Tensor> {
    let u = x.abs()?.neg()?.exp()?;
    let s = (&u / (&u + 2.0)?)?;
    let s2 = s.sqr()?;
    let mut series = s.zeros_like()?;
    for term in (0..TERMS).rev() {
        series = ((series * &s2)? + 1.0 / (2 * term + 1) as f64)?;
    }
    x.relu()? + ((s * series)? * 2.0)?
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Tensor};

    use super::softplus;

    #[test]
    fn small_and_large_values_keep_their_precision() -> candle_core::Result<()> {
        let xs = [-40f64, -7.0, -0.5, 0.0, 1.0, 30.0, 800.0];
        let found: Vec<f64> = softplus(&Tensor::new(&xs, &Device::Cpu)?)?.to_vec1()?;
        for (x, found) in xs.iter().zip(found) {
            let exact = x.max(0.0) + libm::log1p(libm::exp(-x.abs()));
            assert!((found - exact).abs() <= 1e-15 * exact, "softplus({x}) = {found}");
        }
        Ok(())
    }
}
