//! The kernels for CUDA devices, for rows of up to 4096 channels, or 16,384 in multiples of 16.

use candle_core::{DType, Result, Tensor};

use super::{Gradients, Incoming, Norm, Output, Saved, keep};
use crate::GradBuffer;
use crate::cuda::{self, Kernel, Module};

const MODULE: Module = module!(ADD_NORM);

/// Most threads of a block, as in the kernels' launch bounds.
const MAX_THREADS: usize = 512;
/// Blocks that fill a large GPU.
const ENOUGH_BLOCKS: usize = 132 * 16;

/// The division of a row among the threads of a block, and of the rows among blocks.
struct Work {
    width: usize,
    groups: usize,
    threads: usize,
    per_block: usize,
    blocks: usize,
}

impl Work {
    fn new(rows: usize, d: usize, keep: usize, read: &[&Tensor]) -> Option<Self> {
        let aligned = read
            .iter()
            .all(|tensor| tensor.layout().start_offset().is_multiple_of(8));
        let (width, groups) = match d.is_multiple_of(8) && keep.is_multiple_of(8) && aligned {
            true if d <= 8 * MAX_THREADS => (8, 1),
            true => (8, 4),
            false => (1, 8),
        };
        let threads = d.div_ceil(width * groups).next_multiple_of(32);
        let per_block = rows.div_ceil(ENOUGH_BLOCKS).max(1);
        (threads <= MAX_THREADS).then(|| Self {
            width,
            groups,
            threads,
            per_block,
            blocks: rows.div_ceil(per_block),
        })
    }

    fn name(&self, kernel: &str) -> String {
        format!("{kernel}{}x{}", self.width, self.groups)
    }
}

/// Whether there is a kernel for rows of `d` channels.
pub(super) fn takes(x: &Tensor, d: usize) -> bool {
    cuda::takes(x) && x.elem_count() > 0 && (d <= 8 * MAX_THREADS || d <= 32 * MAX_THREADS && d.is_multiple_of(16))
}

fn work(rows: usize, d: usize, keep: usize, read: &[&Tensor]) -> Result<Work> {
    match Work::new(rows, d, keep, read) {
        Some(work) => Ok(work),
        None => candle_core::bail!("add_norm: no kernel for rows of {d} channels at this place in memory"),
    }
}

pub(super) fn forward(
    x: &Tensor,
    delta: Option<&Tensor>,
    gain: &Tensor,
    norm: Norm,
    previous: Option<&Tensor>,
) -> Result<Output> {
    let (n, t, d) = x.dims3()?;
    let contiguous = |tensor: Option<&Tensor>| tensor.map(Tensor::contiguous).transpose();
    let (x, delta, previous) = (x.contiguous()?, contiguous(delta)?, contiguous(previous)?);
    let residual = match &delta {
        Some(_) => cuda::empty_like(&x)?,
        None => x.clone(),
    };
    let normed = cuda::empty_like(&x)?;
    let scale = cuda::empty((n, t), DType::F32, x.device())?;
    let keep = keep(d, previous.is_some());
    let read: Vec<&Tensor> = [&x].into_iter().chain(&delta).chain(&previous).collect();
    let work = work(n * t, d, keep, &read)?;
    Kernel::new(x.device(), MODULE, &work.name("add_norm_forward"), x.dtype())?
        .tensor(&x)?
        .maybe(delta.as_ref())?
        .tensor(gain)?
        .maybe(previous.as_ref())?
        .tensor(&residual)?
        .tensor(&normed)?
        .tensor(&scale)?
        .int(n * t)?
        .int(t)?
        .int(d)?
        .int(keep)?
        .int(shared(previous.as_ref()))?
        .int(usize::from(norm == Norm::Clamped))?
        .int(work.per_block)?
        .launch(work.blocks, work.threads, 0)?;
    Ok(Output {
        residual,
        normed,
        saved: Saved { scale: Some(scale) },
    })
}

pub(super) fn backward(
    residual: &Tensor,
    gain: &Tensor,
    norm: Norm,
    previous: Option<&Tensor>,
    scale: &Tensor,
    incoming: &Incoming<'_>,
    d_gain: &mut GradBuffer,
) -> Result<Gradients> {
    let (n, t, d) = residual.dims3()?;
    let contiguous = |tensor: Option<&Tensor>| tensor.map(Tensor::contiguous).transpose();
    let (residual, previous) = (residual.contiguous()?, contiguous(previous)?);
    let d_normed = incoming.d_normed.contiguous()?;
    let (d_residual, d_last) = (contiguous(incoming.d_residual)?, contiguous(incoming.d_last)?);
    let d_x = cuda::empty_like(&residual)?;
    // one row per sequence; summed below if the sequences share it
    let d_previous = match &previous {
        Some(_) => Some(cuda::empty((n, 1, d), residual.dtype(), residual.device())?),
        None => None,
    };
    let keep = keep(d, previous.is_some());
    let read: Vec<&Tensor> = [&residual, &d_normed]
        .into_iter()
        .chain(&previous)
        .chain(&d_residual)
        .chain(&d_last)
        .collect();
    let work = work(n * t, d, keep, &read)?;
    let partial = cuda::empty((work.blocks, d), DType::F32, residual.device())?;
    let clamped = match norm {
        Norm::Clamped => 1e8 * (1.0 - f64::from(f32::EPSILON)),
        Norm::Eps => f64::INFINITY,
    };
    Kernel::new(
        residual.device(),
        MODULE,
        &work.name("add_norm_backward"),
        residual.dtype(),
    )?
    .tensor(&residual)?
    .tensor(gain)?
    .maybe(previous.as_ref())?
    .tensor(scale)?
    .tensor(&d_normed)?
    .maybe(d_residual.as_ref())?
    .maybe(d_last.as_ref())?
    .tensor(&d_x)?
    .maybe(d_previous.as_ref())?
    .tensor(&partial)?
    .int(n * t)?
    .int(t)?
    .int(d)?
    .int(keep)?
    .int(shared(previous.as_ref()))?
    .float(clamped)
    .int(work.per_block)?
    .launch(work.blocks, work.threads, 0)?;
    cuda::add_columns(&partial, d_gain.touch())?;
    let d_previous = match (d_previous, &previous) {
        (Some(each), Some(previous)) if previous.dim(0)? != n => {
            Some(cuda::sum_sequences(&each)?.to_dtype(each.dtype())?)
        }
        (d_previous, _) => d_previous,
    };
    Ok(Gradients { d_x, d_previous })
}

/// 1 if all sequences share one previous row, else 0.
fn shared(previous: Option<&Tensor>) -> usize {
    previous.map_or(0, |previous| usize::from(previous.dims()[0] == 1))
}
