//! Row arithmetic that the RMS norms share: y = s f g with the row's factor f = 1 / √(mean(s²) + …), and its gradients
//! ds = f (g dy − c s), c = f² mean(g dy s), dg += dy s f.

use super::Real;

/// Independent partial sums: enough to fill a vector register of 16 `f32`.
const LANES: usize = 16;

/// Σ a[i]·b[i]·c[i], in a fixed order.
#[inline(always)]
pub(crate) fn dot3<T: Real>(a: &[T], b: &[T], c: &[T]) -> T {
    let mut lanes = [T::zero(); LANES];
    let (a_chunks, a_rest) = a.as_chunks::<LANES>();
    let (b_chunks, b_rest) = b.as_chunks::<LANES>();
    let (c_chunks, c_rest) = c.as_chunks::<LANES>();
    for ((a, b), c) in a_chunks.iter().zip(b_chunks).zip(c_chunks) {
        for lane in 0..LANES {
            lanes[lane] += a[lane] * b[lane] * c[lane];
        }
    }
    let mut total = T::zero();
    for lane in lanes {
        total += lane;
    }
    for ((a, b), c) in a_rest.iter().zip(b_rest).zip(c_rest) {
        total += *a * *b * *c;
    }
    total
}

/// `to = s f g`.
#[inline(always)]
pub(crate) fn scale<T: Real>(to: &mut [T], s: &[T], f: T, gain: &[T]) {
    for ((to, s), gain) in to.iter_mut().zip(s).zip(gain) {
        *to = *s * f * *gain;
    }
}

/// `to += f (g dy − c s)`.
#[inline(always)]
pub(crate) fn add_gradient<T: Real>(to: &mut [T], gain: &[T], dy: &[T], s: &[T], f: T, c: T) {
    for (((to, gain), dy), s) in to.iter_mut().zip(gain).zip(dy).zip(s) {
        *to += f * (*gain * *dy - c * *s);
    }
}

/// `d_gain += dy s f`.
#[inline(always)]
pub(crate) fn add_gain<T: Real>(d_gain: &mut [T], dy: &[T], s: &[T], f: T) {
    for ((to, dy), s) in d_gain.iter_mut().zip(dy).zip(s) {
        *to += *dy * *s * f;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_product_of_three_covers_every_element() {
        for len in [0usize, 1, 15, 16, 17, 100] {
            let a: Vec<f64> = (0..len).map(|i| i as f64).collect();
            assert_eq!(dot3(&a, &a, &a), a.iter().map(|x| x * x * x).sum::<f64>());
        }
    }
}
