//! The transpose of a matrix in panels, and its products with few rows.
//!
//! ```text
//! y (r, n) = x (r, k) · Wᵀ        W (n, k) as panels (⌈n / LANES⌉, k, LANES), the last one filled up with zeros
//! ```
//!
//! A panel holds [`LANES`] rows of W across: one step along k is one vector of each panel times one number of each row of x, and
//! the sums of a tile of rows and panels stay in registers from the first step to the last. So each sum goes through k in
//! order, whatever the number of rows, panels and threads.
//!
//! Products with few rows wait for the weight, so its elements may lie as bfloat16 where they all are such numbers ([`Stored`]):
//! half as much to wait for, and the same numbers to multiply.

use std::mem::MaybeUninit;
use std::ops::Range;

use half::bf16;
use multiversion::multiversion;
use multiversion::target::target_cfg_f;

use super::{Real, par_chunks};

/// Rows of W that a panel holds: a vector register of 16 `f32`.
const LANES: usize = 16;

/// Panels that one tile takes at most.
const GROUP: usize = 4;

/// How an element of a matrix lies in memory.
pub(crate) trait Stored<T>: Copy + Send + Sync {
    const ZERO: Self;

    /// As it lies; `None` for a value that cannot.
    fn exactly(value: T) -> Option<Self>;

    /// What it is multiplied as.
    fn value(self) -> T;
}

macro_rules! stored_as_it_is {
    ($($real:ty)*) => { $(
        impl Stored<$real> for $real {
            const ZERO: Self = 0.0;

            fn exactly(value: $real) -> Option<Self> {
                Some(value)
            }

            #[inline(always)]
            fn value(self) -> $real {
                self
            }
        }
    )* };
}

stored_as_it_is!(f32 f64);

impl Stored<f32> for bf16 {
    const ZERO: Self = Self::ZERO;

    fn exactly(value: f32) -> Option<Self> {
        let bits = value.to_bits();
        (bits & 0xffff == 0).then(|| Self::from_bits((bits >> 16) as u16))
    }

    /// Without the care that `half` takes of signalling NaNs, which would be a branch a number.
    #[inline(always)]
    fn value(self) -> f32 {
        f32::from_bits(u32::from(self.to_bits()) << 16)
    }
}

/// A matrix (n, k) of T across, in panels of S.
pub(crate) struct Panels<S> {
    data: Vec<[S; LANES]>,
    /// n.
    pub(crate) outputs: usize,
    /// k.
    pub(crate) inputs: usize,
}

impl<S> Panels<S> {
    /// Rearranges `weight` (outputs, inputs), if every element can lie as S does; `inputs` is at least 1.
    pub(crate) fn new<T: Real>(weight: &[T], inputs: usize) -> Option<Self>
    where
        S: Stored<T>,
    {
        if !weight.iter().all(|value| S::exactly(*value).is_some()) {
            return None;
        }
        let outputs = weight.len() / inputs;
        let mut data = vec![[S::ZERO; LANES]; outputs.div_ceil(LANES) * inputs];
        par_chunks(&mut data, inputs, |index, panel| {
            for (lane, row) in weight[index * LANES * inputs..]
                .chunks_exact(inputs)
                .take(LANES)
                .enumerate()
            {
                for (to, value) in panel.iter_mut().zip(row) {
                    to[lane] = S::exactly(*value).unwrap_or(S::ZERO); // all of them can
                }
            }
        });
        Some(Self { data, outputs, inputs })
    }

    /// How many panels there are.
    pub(crate) fn len(&self) -> usize {
        self.outputs.div_ceil(LANES)
    }

    /// The outputs that `count` panels from panel `first` on give.
    pub(crate) fn outputs_of(&self, first: usize, count: usize) -> Range<usize> {
        first * LANES..((first + count) * LANES).min(self.outputs)
    }

    /// `out` (r, outputs of the panels) = x (r, inputs) · Wᵀ for `count` panels from panel `first` on; all of it is written, and
    /// given back so.
    pub(crate) fn multiply<'o, T: Real>(
        &self,
        out: &'o mut [MaybeUninit<T>],
        x: &[T],
        first: usize,
        count: usize,
    ) -> &'o mut [T]
    where
        S: Stored<T>,
    {
        let columns = self.outputs_of(first, count).len();
        assert_eq!(
            out.len(),
            x.len() / self.inputs * columns,
            "a row of outputs for each row of inputs"
        );
        multiply(
            out,
            columns,
            x,
            &self.data[first * self.inputs..][..count * self.inputs],
            self.inputs,
        );
        // SAFETY: `out` has as many rows as `x`, of `columns` each, and every tile of rows and panels has written its part.
        unsafe { &mut *(std::ptr::from_mut(out) as *mut [T]) }
    }
}

#[multiversion(targets("x86_64+avx512f+avx512vl+fma", "x86_64+avx2+fma"))]
fn multiply<T: Real, S: Stored<T>>(
    out: &mut [MaybeUninit<T>],
    columns: usize,
    x: &[T],
    panels: &[[S; LANES]],
    inputs: usize,
) {
    // tiles whose sums and operands fit the registers
    if target_cfg_f!(target_feature = "avx512f") {
        multiply_by::<T, S, true, 4, 4>(out, columns, x, panels, inputs);
    } else if target_cfg_f!(target_feature = "fma") || cfg!(target_arch = "aarch64") {
        multiply_by::<T, S, true, 4, 1>(out, columns, x, panels, inputs);
    } else {
        multiply_by::<T, S, false, 2, 1>(out, columns, x, panels, inputs);
    }
}

/// With tiles of R rows times P panels; of rows that are left over, first two and then one meet [`GROUP`] panels at once.
#[inline(always)]
fn multiply_by<T: Real, S: Stored<T>, const FUSED: bool, const R: usize, const P: usize>(
    out: &mut [MaybeUninit<T>],
    columns: usize,
    x: &[T],
    panels: &[[S; LANES]],
    inputs: usize,
) {
    let (rows, count) = (x.len() / inputs, panels.len() / inputs);
    let (tiled, paired) = (rows / R * R, rows / 2 * 2);
    // all rows meet a group of panels while it is in the core's cache
    for panel in (0..count).step_by(GROUP) {
        let group = panel..(panel + GROUP).min(count);
        for row in (0..tiled).step_by(R) {
            tiles::<T, S, FUSED, R, P>(out, columns, x, row, panels, group.clone(), inputs);
        }
        for row in (tiled..paired).step_by(2) {
            tiles::<T, S, FUSED, 2, GROUP>(out, columns, x, row, panels, group.clone(), inputs);
        }
        for row in tiled.max(paired)..rows {
            tiles::<T, S, FUSED, 1, GROUP>(out, columns, x, row, panels, group.clone(), inputs);
        }
    }
}

/// R rows from row `row` on times a range of panels, P at a time as far as they go.
#[inline(always)]
fn tiles<T: Real, S: Stored<T>, const FUSED: bool, const R: usize, const P: usize>(
    out: &mut [MaybeUninit<T>],
    columns: usize,
    x: &[T],
    row: usize,
    panels: &[[S; LANES]],
    range: Range<usize>,
    inputs: usize,
) {
    let whole = range.start + range.len() / P * P;
    for panel in (range.start..whole).step_by(P) {
        tile::<T, S, FUSED, R, P>(out, columns, x, row, panels, panel, inputs);
    }
    for panel in whole..range.end {
        tile::<T, S, FUSED, R, 1>(out, columns, x, row, panels, panel, inputs);
    }
}

/// R rows from row `row` on times P panels from panel `panel` on.
#[inline(always)]
fn tile<T: Real, S: Stored<T>, const FUSED: bool, const R: usize, const P: usize>(
    out: &mut [MaybeUninit<T>],
    columns: usize,
    x: &[T],
    row: usize,
    panels: &[[S; LANES]],
    panel: usize,
    inputs: usize,
) {
    let rows: [&[T]; R] = std::array::from_fn(|r| &x[(row + r) * inputs..][..inputs]);
    let panels: [&[[S; LANES]]; P] = std::array::from_fn(|p| &panels[(panel + p) * inputs..][..inputs]);
    let mut sums = [[[T::zero(); LANES]; P]; R];
    for step in 0..inputs {
        // operands as arrays of their own: loops that also checked bounds would not be unrolled, and the sums not be kept in
        // registers
        let a: [T; R] = std::array::from_fn(|r| rows[r][step]);
        let b: [[T; LANES]; P] = std::array::from_fn(|p| panels[p][step].map(S::value));
        for r in 0..R {
            for p in 0..P {
                for lane in 0..LANES {
                    let (sum, a, b) = (sums[r][p][lane], a[r], b[p][lane]);
                    // fused only where that is one instruction
                    sums[r][p][lane] = if FUSED { a.mul_add(b, sum) } else { sum + a * b };
                }
            }
        }
    }
    for (r, sums) in sums.iter().enumerate() {
        let out = &mut out[(row + r) * columns..(row + r + 1) * columns];
        for (p, sums) in sums.iter().enumerate() {
            for (to, sum) in out[(panel + p) * LANES..].iter_mut().zip(sums) {
                to.write(*sum);
            }
        }
    }
}
