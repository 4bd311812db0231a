//! The CUDA kernel for the sum; the gradient is a sum over rows.

use candle_core::{Result, Tensor};

use crate::GradBuffer;
use crate::cuda::{self, Kernel, Module};

const MODULE: Module = module!(POSITIONS);

/// Most blocks along the sequences.
const MAX_BLOCKS: usize = 1024;

pub(super) fn forward(x: &Tensor, table: &Tensor, start: usize) -> Result<Tensor> {
    let (n, t, d) = x.dims3()?;
    let (x, rows) = (x.contiguous()?, table.narrow(0, start, t)?);
    let y = cuda::empty_like(&x)?;
    if x.elem_count() == 0 {
        return Ok(y);
    }
    let aligned = [&x, &rows]
        .iter()
        .all(|tensor| tensor.layout().start_offset().is_multiple_of(8));
    let width = if d.is_multiple_of(8) && aligned { 8 } else { 1 };
    Kernel::new(x.device(), MODULE, &format!("add_positions{width}"), x.dtype())?
        .tensor(&x)?
        .tensor(&rows)?
        .tensor(&y)?
        .int(n)?
        .long(t * d)
        .launch((cuda::blocks(t * d, 256 * width), n.min(MAX_BLOCKS)), 256, 0)?;
    Ok(y)
}

pub(super) fn backward(dy: &Tensor, start: usize, d_table: &mut GradBuffer) -> Result<()> {
    let (n, t, d) = dy.dims3()?;
    let rows = d_table.touch().narrow(0, start, t)?;
    cuda::add_rows(&dy.reshape((n, t * d))?, &rows)
}
