//! The CUDA kernels: one pass forward; one pass backward, followed by sums over its blocks.
//!
//! `x`, its tail and their gradients have the type of the activations; weight, bias and all sums
//! are `f32`. `x` and `dy` may be slices of wider rows, which are read in place.

use candle_core::{DType, Result, Tensor};

use super::MAX_TAPS_ON_CUDA as TAPS;
use crate::GradBuffer;
use crate::cuda::{self, Kernel, Module};

const MODULE: Module = module!(CONV_SILU);

/// Channels of a thread, if all taps are present and rows are aligned.
const WIDE: usize = 4;
/// Most positions of a run, in the forward and in the backward pass.
const RUN: usize = 32;
const RUN_BACKWARD: usize = 16;
/// Most threads of a block of the forward pass.
const FORWARD_THREADS: usize = 128;
/// Threads of a backward block along the channels and along the runs.
const LANES: usize = 32;
const RUNS: usize = 8;
/// Most blocks of the backward pass; with more runs, each block takes runs in turns.
const BLOCKS: usize = 132 * 16;

/// Whether the kernels support this input and this number of taps.
pub(super) fn takes(x: &Tensor, weight: &Tensor) -> bool {
    cuda::takes(x) && weight.dims()[2] <= TAPS
}

/// `x` (n, t, c) with contiguous rows.
fn in_rows(x: &Tensor) -> Result<Tensor> {
    match x.stride()[2] {
        1 => Ok(x.clone()),
        _ => x.contiguous(),
    }
}

/// Whether this is a multiple of [`WIDE`].
fn whole(count: &usize) -> bool {
    count.is_multiple_of(WIDE)
}

/// The parameters, and the tail in the type of `x`.
struct Inputs {
    weight: Tensor,
    bias: Tensor,
    tail: Option<Tensor>,
}

impl Inputs {
    fn new(x: &Tensor, weight: &Tensor, bias: &Tensor, tail: Option<&Tensor>) -> Result<Self> {
        Ok(Self {
            weight: weight.to_dtype(DType::F32)?.contiguous()?,
            bias: bias.to_dtype(DType::F32)?.contiguous()?,
            tail: tail.map(|tail| like(tail, x)).transpose()?,
        })
    }

    /// Channels of a thread: [`WIDE`] with all [`TAPS`], if all inputs and `others` (n, t, c) are
    /// aligned.
    fn width(&self, others: &[&Tensor]) -> usize {
        let begins = |tensor: &Tensor| whole(&tensor.layout().start_offset());
        let rows =
            |tensor: &Tensor| begins(tensor) && tensor.stride()[..2].iter().all(whole) && whole(&tensor.dims()[2]);
        let aligned = others.iter().copied().chain(&self.tail).all(rows) && begins(&self.weight) && begins(&self.bias);
        let complete = self.weight.dims()[2] == TAPS;
        if aligned && complete { WIDE } else { 1 }
    }

    /// Adds the arguments of both kernels from x to the tail.
    fn pass(&self, kernel: Kernel, x: &Tensor) -> Result<Kernel> {
        let shared = self.tail.as_ref().is_none_or(|tail| tail.dims()[0] == 1);
        let distance = self.tail.as_ref().map_or(0, |tail| tail.stride()[0]);
        Ok(kernel
            .rows(x)?
            .tensor(&self.weight)?
            .tensor(&self.bias)?
            .maybe(self.tail.as_ref())?
            .long(if shared { 0 } else { distance }))
    }
}

/// `tensor`, contiguous and of the type of `x`.
fn like(tensor: &Tensor, x: &Tensor) -> Result<Tensor> {
    tensor.to_dtype(x.dtype())?.contiguous()
}

pub(super) fn forward(x: &Tensor, weight: &Tensor, bias: &Tensor, tail: Option<&Tensor>) -> Result<(Tensor, Tensor)> {
    let (n, t, c) = x.dims3()?;
    let k = weight.dim(2)?;
    let x = in_rows(x)?;
    let inputs = Inputs::new(&x, weight, bias, tail)?;
    let y = cuda::empty((n, t, c), x.dtype(), x.device())?;
    let new_tail = cuda::empty((n, k - 1, c), x.dtype(), x.device())?;
    if n == 0 {
        return Ok((y, new_tail));
    }
    let width = inputs.width(&[&x]);
    let run = t.div_ceil(2).clamp(TAPS, RUN);
    let runs = t.div_ceil(run).max(1);
    let threads = c.div_ceil(width).next_multiple_of(32).min(FORWARD_THREADS);
    let kernel = Kernel::new(x.device(), MODULE, &format!("conv_silu_forward{width}"), x.dtype())?;
    inputs
        .pass(kernel, &x)?
        .tensor(&y)?
        .tensor(&new_tail)?
        .int(t)?
        .int(c)?
        .int(k)?
        .int(run)?
        .int(runs)?
        .launch((n * runs, cuda::blocks(c, width * threads)), threads, 0)?;
    Ok((y, new_tail))
}

pub(super) fn backward(
    x: &Tensor,
    weight: &Tensor,
    bias: &Tensor,
    tail: Option<&Tensor>,
    dy: &Tensor,
    d_new_tail: Option<&Tensor>,
    d_weight: &mut GradBuffer,
    d_bias: &mut GradBuffer,
) -> Result<(Tensor, Option<Tensor>)> {
    let (n, t, c) = x.dims3()?;
    let k = weight.dim(2)?;
    let (x, dy) = (in_rows(x)?, in_rows(&dy.to_dtype(x.dtype())?)?);
    let inputs = Inputs::new(&x, weight, bias, tail)?;
    let d_new_tail = d_new_tail.map(|d_new_tail| like(d_new_tail, &x)).transpose()?;
    let dx = cuda::empty((n, t, c), x.dtype(), x.device())?;
    let d_tails = match tail {
        Some(_) => Some(cuda::empty((n, k - 1, c), DType::F32, x.device())?),
        None => None,
    };
    if n > 0 {
        let mut rows = vec![&x, &dy];
        rows.extend(&d_new_tail);
        let width = inputs.width(&rows);
        let run = t.clamp(TAPS, RUN_BACKWARD);
        let runs = t.div_ceil(run).max(1);
        let across = cuda::blocks(c, LANES * width);
        let blocks = (n * runs).div_ceil(RUNS).min((BLOCKS / across).max(1));
        let partial = cuda::empty((blocks, TAPS + 1, c), DType::F32, x.device())?;
        let kernel = Kernel::new(x.device(), MODULE, &format!("conv_silu_backward{width}"), x.dtype())?;
        inputs
            .pass(kernel, &x)?
            .rows(&dy)?
            .maybe(d_new_tail.as_ref())?
            .tensor(&dx)?
            .maybe(d_tails.as_ref())?
            .tensor(&partial)?
            .int(t)?
            .int(c)?
            .int(k)?
            .int(run)?
            .int(runs)?
            .int(n * runs)?
            .launch((blocks, across), (LANES, RUNS), 0)?;
        Kernel::untyped(x.device(), MODULE, "conv_silu_parameters")?
            .tensor(&partial)?
            .tensor(d_weight.touch())?
            .tensor(d_bias.touch())?
            .int(blocks)?
            .int(c)?
            .int(k)?
            .launch((cuda::blocks(c, LANES), TAPS + 1), (LANES, RUNS), 0)?;
    }
    let d_tail = match (tail, d_tails) {
        (Some(tail), Some(d_tails)) => Some(fold(&d_tails, tail, &x)?),
        _ => None,
    };
    Ok((dx, d_tail))
}

/// The gradients of the tails (n, k - 1, c) in the type of `x`, summed if the sequences share a
/// tail.
fn fold(d_tails: &Tensor, tail: &Tensor, x: &Tensor) -> Result<Tensor> {
    let d_tail = cuda::empty(tail.shape(), x.dtype(), x.device())?;
    let count = tail.elem_count();
    if let Some(sequences) = d_tails.elem_count().checked_div(count) {
        Kernel::new(x.device(), MODULE, "fold_sequences", x.dtype())?
            .tensor(d_tails)?
            .tensor(&d_tail)?
            .int(sequences)?
            .int(count)?
            .launch(cuda::blocks(count, 128), 128, 0)?;
    }
    Ok(d_tail)
}
