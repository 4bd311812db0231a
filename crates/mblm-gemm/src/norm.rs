//! Row arithmetic shared by RMS norms.
//!
//! ```text
//! y = s f g                  s a row, g the gain, f = 1 / √(mean(s²) + …)
//! ds = f (g dy − c s)        c = f² mean(g dy s)
//! dg += dy s f
//! ```
//!
//! ```
//! let mut y = [0.0; 2];
//! mblm_gemm::norm::scale(&mut y, &[1.0, 2.0], 0.5, &[1.0, 10.0]);
//! assert_eq!(y, [0.5, 10.0]);
//! ```

use crate::real::Real;

/// `to = s f g`.
#[inline(always)]
pub fn scale<T: Real>(to: &mut [T], s: &[T], f: T, gain: &[T]) {
    for ((to, s), gain) in to.iter_mut().zip(s).zip(gain) {
        *to = *s * f * *gain;
    }
}

/// `to += f (g dy − c s)`.
#[inline(always)]
pub fn add_gradient<T: Real>(to: &mut [T], gain: &[T], dy: &[T], s: &[T], f: T, c: T) {
    for (((to, gain), dy), s) in to.iter_mut().zip(gain).zip(dy).zip(s) {
        *to += f * (*gain * *dy - c * *s);
    }
}

/// `d_gain += dy s f`.
#[inline(always)]
pub fn add_gain<T: Real>(d_gain: &mut [T], dy: &[T], s: &[T], f: T) {
    for ((to, dy), s) in d_gain.iter_mut().zip(dy).zip(s) {
        *to += *dy * *s * f;
    }
}
