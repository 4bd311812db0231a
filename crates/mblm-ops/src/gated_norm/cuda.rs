//! The CUDA kernels: one pass forward and one backward, each row in the registers of one block.
//!
//! `y`, `z` and their gradients have the type of the activations; the gain, its gradient and the
//! rows' factors are `f32`. `z` may be a slice of wider rows, which is read in place.

use candle_core::{D, DType, Result, Tensor};

use super::Saved;
use crate::GradBuffer;
use crate::cuda::{self, Kernel, Module};

const MODULE: Module = module!(GATED_NORM);

/// Channels of a thread.
const GROUP: usize = 8;
/// Most threads of a block.
const MAX_THREADS: usize = 1024;
/// Threads that fill a large GPU, given the registers of the forward and the backward pass.
const FORWARD_THREADS: usize = 132 * 2048;
const BACKWARD_THREADS: usize = 132 * 1024;

/// Whether the kernels support rows like these.
pub(super) fn takes(y: &Tensor) -> bool {
    cuda::takes(y) && y.dims().last().is_some_and(|&d| d <= GROUP * MAX_THREADS)
}

/// The layout of rows (…, d) and their division among blocks.
struct Work {
    y: Tensor,
    /// (n, t, d), with contiguous rows.
    z: Tensor,
    rows: usize,
    d: usize,
    width: usize,
    threads: usize,
}

impl Work {
    /// The layout for `y`, `z` and `others`, which must be contiguous.
    fn new(y: &Tensor, z: &Tensor, others: &[&Tensor]) -> Result<Self> {
        let d = y.dim(D::Minus1)?;
        let y = y.contiguous()?;
        let z = z.to_dtype(y.dtype())?;
        let z = match (z.rank(), z.stride().last()) {
            (3, Some(1)) => z,
            _ => z.contiguous()?.reshape((1, (), d))?,
        };
        let whole = |count: &usize| count.is_multiple_of(GROUP);
        let aligned = whole(&d)
            && z.stride()[..2].iter().all(whole)
            && [&y, &z]
                .into_iter()
                .chain(others.iter().copied())
                .all(|tensor| whole(&tensor.layout().start_offset()));
        Ok(Self {
            rows: y.elem_count() / d,
            d,
            width: if aligned { GROUP } else { 1 },
            threads: d.div_ceil(GROUP).next_multiple_of(32),
            y,
            z,
        })
    }

    /// The number of blocks with at most `threads` threads together.
    fn blocks(&self, threads: usize) -> usize {
        self.rows.min(threads / self.threads)
    }

    /// The kernel of this name with its first arguments, y and z.
    fn kernel(&self, name: &str) -> Result<Kernel> {
        let name = format!("{name}{}", self.width);
        Kernel::new(self.y.device(), MODULE, &name, self.y.dtype())?
            .tensor(&self.y)?
            .rows(&self.z)
    }

    /// Launches a kernel whose last arguments are the sizes.
    fn launch(&self, kernel: Kernel, blocks: usize) -> Result<()> {
        kernel
            .int(self.rows)?
            .int(self.z.dim(1)?)?
            .int(self.d)?
            .launch(blocks, self.threads, 0)
    }
}

pub(super) fn forward(y: &Tensor, z: &Tensor, gain: &Tensor) -> Result<(Tensor, Saved)> {
    let gain = gain.to_dtype(DType::F32)?.contiguous()?;
    let work = Work::new(y, z, &[&gain])?;
    let out = cuda::empty_like(&work.y)?;
    let scale = cuda::empty(work.rows, DType::F32, y.device())?;
    if work.rows > 0 {
        let kernel = work.kernel("gated_norm_forward")?;
        let kernel = kernel.tensor(&gain)?.tensor(&out)?.tensor(&scale)?;
        work.launch(kernel, work.blocks(FORWARD_THREADS))?;
    }
    Ok((out, Saved { scale: Some(scale) }))
}

pub(super) fn backward(
    y: &Tensor,
    z: &Tensor,
    gain: &Tensor,
    scale: &Tensor,
    d_out: &Tensor,
    d_gain: &mut GradBuffer,
) -> Result<(Tensor, Tensor)> {
    let gain = gain.to_dtype(DType::F32)?.contiguous()?;
    let d_out = d_out.to_dtype(y.dtype())?.contiguous()?;
    let work = Work::new(y, z, &[&gain, &d_out])?;
    if scale.dims() != [work.rows] {
        candle_core::bail!(
            "gated_norm: expected the factors of {} rows, found {:?}; pass the factors that forward returned",
            work.rows,
            scale.dims()
        );
    }
    let (d_y, d_z) = (cuda::empty_like(&work.y)?, cuda::empty_like(&work.y)?);
    if work.rows > 0 {
        let blocks = work.blocks(BACKWARD_THREADS);
        let partial = cuda::empty((blocks, work.d), DType::F32, y.device())?;
        let kernel = work
            .kernel("gated_norm_backward")?
            .tensor(&gain)?
            .tensor(scale)?
            .tensor(&d_out)?
            .tensor(&d_y)?
            .tensor(&d_z)?
            .tensor(&partial)?;
        work.launch(kernel, blocks)?;
        cuda::add_columns(&partial, d_gain.touch())?;
    }
    Ok((d_y, d_z))
}
