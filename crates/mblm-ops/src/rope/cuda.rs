//! The kernel for CUDA devices.

use candle_core::{Result, Tensor};

use crate::cuda::{self, Kernel, Module};

const MODULE: Module = module!(ROPE);

/// Sequences that share one computation of the angles.
const SHARING: usize = 8;

pub(super) fn rotate(x: &Tensor, start: usize, back: bool) -> Result<Tensor> {
    let (n, t, d) = x.dims3()?;
    let x = x.contiguous()?;
    let y = cuda::empty_like(&x)?;
    Kernel::new(x.device(), MODULE, "rotate", x.dtype())?
        .tensor(&x)?
        .tensor(&y)?
        .int(n)?
        .int(t)?
        .int(d)?
        .long(start)
        .float(if back { -1.0 } else { 1.0 })
        .launch(
            (cuda::blocks(t * (d / 2), 256), n.div_ceil(SHARING).min(1 << 15)),
            256,
            0,
        )?;
    Ok(y)
}
