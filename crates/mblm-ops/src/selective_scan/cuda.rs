//! The CUDA kernels: the recurrence itself, position by position, for many channels at once.
//!
//! All inputs with positions and their gradients have the type of the activations. They may be
//! slices of wider rows, which are read in place. Parameters, states and all sums are `f32`.

use candle_core::{DType, Result, Tensor};

use super::{Gradients, Inputs, MAX_STATES_ON_CUDA as STATES, Output, Saved};
use crate::GradBuffer;
use crate::cuda::{self, Kernel, Module};

const MODULE: Module = module!(SELECTIVE_SCAN);

/// Threads of a block.
const THREADS: usize = 128;
/// State entries of a thread.
const OWN: usize = 4;
/// Positions between two saved states.
const SEGMENT: usize = 16;
/// Shared memory of the backward pass per position: numbers per thread, and numbers per channel.
const SHARES: usize = OWN + 3;
const TILES: usize = 3;
/// Blocks that fill a large GPU.
const ENOUGH_BLOCKS: usize = 132 * 4;

/// Whether the kernels support these inputs.
pub(super) fn takes(inputs: &Inputs) -> bool {
    cuda::takes(inputs.u) && inputs.a_log.dims()[1] <= STATES
}

/// `x` (n, t, d) in the type of `like`, with contiguous rows.
fn in_rows(x: &Tensor, like: &Tensor) -> Result<Tensor> {
    let x = x.to_dtype(like.dtype())?;
    match x.stride()[2] {
        1 => Ok(x),
        _ => x.contiguous(),
    }
}

fn single(x: &Tensor) -> Result<Tensor> {
    x.to_dtype(DType::F32)?.contiguous()
}

/// The inputs as the kernels read them.
struct Scan {
    n: usize,
    t: usize,
    channels: usize,
    state: usize,
    /// u, delta, z, b and c.
    rows: [Tensor; 5],
    a_log: Tensor,
    d: Tensor,
    initial: Option<Tensor>,
}

impl Scan {
    fn new(inputs: &Inputs) -> Result<Self> {
        let (n, t, channels) = inputs.u.dims3()?;
        let rows = |x| in_rows(x, inputs.u);
        Ok(Self {
            n,
            t,
            channels,
            state: inputs.a_log.dim(1)?,
            rows: [
                rows(inputs.u)?,
                rows(inputs.delta)?,
                rows(inputs.z)?,
                rows(inputs.b)?,
                rows(inputs.c)?,
            ],
            a_log: single(inputs.a_log)?,
            d: single(inputs.d)?,
            initial: inputs.initial.map(single).transpose()?,
        })
    }

    /// The number of threads that share a channel.
    fn sharing(&self) -> usize {
        if self.state <= 4 * OWN { 4 } else { STATES / OWN }
    }

    /// The numbers of blocks along the channels and along the sequences.
    fn grid(&self) -> (usize, usize) {
        let across = self.channels.div_ceil(THREADS / self.sharing());
        (across, self.n.min(ENOUGH_BLOCKS.div_ceil(across)))
    }

    fn empty(&self, dims: impl Into<candle_core::Shape>, dtype: DType) -> Result<Tensor> {
        cuda::empty(dims, dtype, self.rows[0].device())
    }

    /// An uninitialized tensor with `width` channels and the other properties of u.
    fn empty_rows(&self, width: usize) -> Result<Tensor> {
        self.empty((self.n, self.t, width), self.rows[0].dtype())
    }

    fn empty_states(&self) -> Result<Tensor> {
        self.empty((self.n, self.channels, self.state), DType::F32)
    }

    /// The shape of the states between segments, (n, segments - 1, d, N).
    fn border_dims(&self) -> [usize; 4] {
        [self.n, self.t.div_ceil(SEGMENT) - 1, self.channels, self.state]
    }

    /// The kernel of this name with its first arguments, u to the initial state; `dy` follows c.
    fn kernel(&self, name: &str, dy: Option<&Tensor>) -> Result<Kernel> {
        let name = format!("{name}{}", self.sharing());
        let mut kernel = Kernel::new(self.rows[0].device(), MODULE, &name, self.rows[0].dtype())?;
        for rows in self.rows.iter().chain(dy) {
            kernel = kernel.rows(rows)?;
        }
        let own = self.initial.as_ref().is_some_and(|initial| initial.dims()[0] > 1);
        let distance = if own { self.channels * self.state } else { 0 };
        Ok(kernel
            .tensor(&self.a_log)?
            .tensor(&self.d)?
            .maybe(self.initial.as_ref())?
            .long(distance))
    }

    /// Launches a kernel whose last arguments are the sizes.
    fn launch(&self, kernel: Kernel, shared: usize) -> Result<()> {
        kernel
            .int(self.n)?
            .int(self.t)?
            .int(self.channels)?
            .int(self.state)?
            .launch(self.grid(), THREADS, shared)
    }
}

pub(super) fn forward(inputs: &Inputs) -> Result<Output> {
    let scan = Scan::new(inputs)?;
    let (y, last) = (scan.empty_rows(scan.channels)?, scan.empty_states()?);
    let borders = match scan.border_dims() {
        [_, 0, ..] => None,
        dims => Some(scan.empty(&dims[..], DType::F32)?),
    };
    if scan.n > 0 {
        let kernel = scan
            .kernel("selective_scan_forward", None)?
            .tensor(&y)?
            .maybe(borders.as_ref())?
            .tensor(&last)?;
        scan.launch(kernel, 0)?;
    }
    let saved = Saved {
        borders: borders.into_iter().collect(),
    };
    Ok(Output { y, last, saved })
}

pub(super) fn backward(
    inputs: &Inputs,
    saved: &Saved,
    dy: &Tensor,
    d_last: Option<&Tensor>,
    a_log: &mut GradBuffer,
    d: &mut GradBuffer,
) -> Result<Gradients> {
    let scan = Scan::new(inputs)?;
    let (n, t, channels, state) = (scan.n, scan.t, scan.channels, scan.state);
    let borders = match (scan.border_dims(), &saved.borders[..]) {
        ([_, 0, ..], []) => None,
        (dims, [borders]) if borders.dims() == dims => Some(borders),
        _ => candle_core::bail!(
            "selective_scan: the saved values belong to another scan; pass the values that forward \
             returned"
        ),
    };
    let dy = in_rows(dy, inputs.u)?;
    let d_last = d_last.map(single).transpose()?;
    let [d_u, d_delta, d_z] = [(); 3].map(|()| scan.empty_rows(channels));
    let (d_u, d_delta, d_z) = (d_u?, d_delta?, d_z?);
    let (d_b, d_c) = (scan.empty_rows(state)?, scan.empty_rows(state)?);
    let d_begin = match inputs.initial {
        Some(_) => Some(scan.empty_states()?),
        None => None,
    };
    if n > 0 {
        let (across, along) = scan.grid();
        let d_a = scan.empty((along, channels * state), DType::F32)?;
        let d_skip = scan.empty((along, channels), DType::F32)?;
        let partial = scan.empty((across, n * t, 2 * state), DType::F32)?;
        let kernel = scan
            .kernel("selective_scan_backward", Some(&dy))?
            .maybe(borders)?
            .maybe(d_last.as_ref())?
            .tensor(&d_u)?
            .tensor(&d_delta)?
            .tensor(&d_z)?
            .maybe(d_begin.as_ref())?
            .tensor(&d_a)?
            .tensor(&d_skip)?
            .tensor(&partial)?;
        let (held, block) = (scan.sharing() * OWN, THREADS / scan.sharing());
        let floats = SEGMENT * (THREADS * SHARES + THREADS / 32 * 2 * held + 2 * held + TILES * block);
        scan.launch(kernel, floats * size_of::<f32>())?;
        Kernel::new(dy.device(), MODULE, "selective_scan_fold", dy.dtype())?
            .tensor(&partial)?
            .tensor(&d_b)?
            .tensor(&d_c)?
            .long(n * t)
            .int(state)?
            .int(across)?
            .launch(cuda::blocks(n * t * 2 * state, 256).min(ENOUGH_BLOCKS * 4), 256, 0)?;
        cuda::add_columns(&d_a, a_log.touch())?;
        cuda::add_columns(&d_skip, d.touch())?;
    }
    let d_initial = match (inputs.initial, d_begin) {
        (Some(initial), Some(d_begin)) if initial.dims()[0] != n => Some(cuda::sum_sequences(&d_begin)?),
        (_, d_begin) => d_begin,
    };
    Ok(Gradients {
        d_u,
        d_delta,
        d_b,
        d_c,
        d_z,
        d_initial,
    })
}
