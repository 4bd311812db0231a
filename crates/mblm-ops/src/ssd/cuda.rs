//! The CUDA kernels: the chunked form with its own chunk length, or the recurrence for few
//! positions.
//!
//! `xbc`, `dt`, `y` and their gradients have the type of the activations, T; parameters, all sums,
//! and the initial and last states are `f32`. The states at chunk borders are operands of matrix
//! products and are kept in T. `xbc`, `dt` and `dy` may be slices of wider rows, which are read in
//! place.

use candle_core::cuda_backend::WrapErr;
use candle_core::cuda_backend::cudarc::driver::sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN;
use candle_core::{DType, Result, Tensor};

use super::{
    Gradients, Inputs, MAX_HEAD_DIM_ON_CUDA as HEAD_DIM, MAX_STATES_ON_CUDA as STATES, Output, ParameterGradients,
    Saved, Ssd,
};
use crate::cuda::{self, Kernel, Module};

const MODULE: Module = module!(SSD);

/// Positions of a chunk.
const CHUNK: usize = 64;
/// Most positions for which the recurrence is faster than the chunked form.
const FEW: usize = 4;
/// State entries of a block in the recurrence over the chunks: 64 if that gives enough blocks, else
/// 32.
const STATE_SLICES: [usize; 2] = [64, 32];
/// Threads of the blocks that compute outputs, states and gradients.
const OUTPUT_THREADS: usize = 128;
const STATE_THREADS: usize = 256;
const GRADIENT_THREADS: usize = 512;
/// Warps of a block that computes time steps.
const STEP_WARPS: usize = 16;
/// Channels of a block in the recurrence for few positions, one warp each.
const FEW_WARPS: usize = 8;
/// Multiprocessors of a large GPU.
const PROCESSORS: usize = 132;
/// Most groups into which the heads of a chunk are divided.
const MAX_GROUPS: usize = 16;
/// Bytes of shared memory of the kernels beside their tiles.
const FIXED_SHARED: usize = 7 << 10;

/// Whether the kernels support a scan of these sizes on this device.
pub(super) fn takes(s: &Ssd, xbc: &Tensor) -> Result<bool> {
    if !cuda::takes(xbc) || s.head_dim > HEAD_DIM || s.state > STATES {
        return Ok(false);
    }
    let context = xbc.device().as_cuda_device()?.cuda_stream().context().clone();
    let shared = context
        .attribute(CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)
        .w()?;
    Ok(usize::try_from(shared).is_ok_and(|shared| shared >= tiles(xbc.dtype(), padded(s), 3, 3) + FIXED_SHARED))
}

/// Columns of a tile of state entries, padding included.
fn padded(s: &Ssd) -> usize {
    if s.state <= 64 { 64 } else { STATES }
}

/// Bytes of tiles of [`CHUNK`] rows: `wide` of `states` columns and `narrow` of [`HEAD_DIM`]
/// columns.
fn tiles(dtype: DType, states: usize, wide: usize, narrow: usize) -> usize {
    let row = |columns: usize| columns * dtype.size_in_bytes() + 16;
    CHUNK * (wide * row(states) + narrow * row(HEAD_DIM))
}

/// `x` (n, t, d) with contiguous rows.
fn in_rows(x: &Tensor) -> Result<Tensor> {
    match x.stride()[2] {
        1 => Ok(x.clone()),
        _ => x.contiguous(),
    }
}

fn single(x: &Tensor) -> Result<Tensor> {
    x.to_dtype(DType::F32)?.contiguous()
}

/// The inputs as the kernels read them.
struct Scan<'a> {
    s: &'a Ssd,
    n: usize,
    t: usize,
    chunks: usize,
    xbc: Tensor,
    dt: Tensor,
    a_log: Tensor,
    d: Tensor,
    dt_bias: Tensor,
    initial: Option<Tensor>,
}

/// Δ and its running sums, by chunks.
struct Steps {
    delta: Tensor,
    sums: Tensor,
}

impl<'a> Scan<'a> {
    fn new(s: &'a Ssd, inputs: &Inputs) -> Result<Self> {
        let (n, t, _) = inputs.xbc.dims3()?;
        Ok(Self {
            s,
            n,
            t,
            chunks: t.div_ceil(CHUNK),
            xbc: in_rows(inputs.xbc)?,
            dt: in_rows(&inputs.dt.to_dtype(inputs.xbc.dtype())?)?,
            a_log: single(inputs.a_log)?,
            d: single(inputs.d)?,
            dt_bias: single(inputs.dt_bias)?,
            initial: inputs.initial.map(single).transpose()?,
        })
    }

    fn width(&self) -> usize {
        self.s.heads * self.s.head_dim
    }

    fn state_dims(&self) -> (usize, usize, usize, usize) {
        (self.n, self.s.heads, self.s.head_dim, self.s.state)
    }

    fn border_dims(&self) -> [usize; 5] {
        [self.n, self.chunks, self.s.heads, self.s.head_dim, self.s.state]
    }

    fn empty(&self, dims: impl Into<candle_core::Shape>, dtype: DType) -> Result<Tensor> {
        cuda::empty(dims, dtype, self.xbc.device())
    }

    fn kernel(&self, name: &str) -> Result<Kernel> {
        Kernel::new(self.xbc.device(), MODULE, name, self.xbc.dtype())
    }

    /// Whether groups of eight elements of `rows`, of `xbc` and of states are aligned.
    fn aligned(&self, rows: &[&Tensor]) -> bool {
        let whole = |count: &usize| count.is_multiple_of(8);
        whole(&self.s.head_dim)
            && whole(&self.s.state)
            && rows
                .iter()
                .all(|rows| whole(&rows.layout().start_offset()) && rows.stride()[..2].iter().all(whole))
    }

    /// Adds the last arguments of the kernels.
    fn sizes(&self, kernel: Kernel, aligned: bool) -> Result<Kernel> {
        kernel
            .int(self.t)?
            .int(self.chunks)?
            .int(self.s.heads)?
            .int(self.s.head_dim)?
            .int(self.s.state)?
            .int(usize::from(aligned))
    }

    /// Adds an optional state (n or 1, H, P, N) and its stride in elements between sequences.
    fn begin(&self, kernel: Kernel, begin: Option<&Tensor>) -> Result<Kernel> {
        let own = begin.is_some_and(|begin| begin.dims()[0] > 1);
        let distance = if own { self.width() * self.s.state } else { 0 };
        Ok(kernel.maybe(begin)?.long(distance))
    }

    fn steps(&self) -> Result<Steps> {
        let count = self.n * self.chunks * self.s.heads * CHUNK;
        let steps = Steps {
            delta: self.empty(count, DType::F32)?,
            sums: self.empty((count, 2), DType::F32)?,
        };
        let kernel = self
            .kernel("ssd_steps")?
            .rows(&self.dt)?
            .tensor(&self.a_log)?
            .tensor(&self.dt_bias)?
            .tensor(&steps.delta)?
            .tensor(&steps.sums)?;
        self.sizes(kernel, false)?.launch(
            (self.n * self.chunks, cuda::blocks(self.s.heads, 32)),
            (32, STEP_WARPS),
            0,
        )?;
        Ok(steps)
    }

    /// The recurrence over the chunks by kernel `name`, from `begin`.
    ///
    /// Returns the state at each chunk; the state at the end goes to `end`. `x` (n, t, H·P) and `b`
    /// (n, t, N) are x and B, or for the reverse dy and C.
    fn states(
        &self,
        name: &str,
        (x, b): (&Tensor, &Tensor),
        steps: &Steps,
        begin: Option<&Tensor>,
        end: Option<&Tensor>,
    ) -> Result<Tensor> {
        let borders = self.empty(&self.border_dims()[..], self.xbc.dtype())?;
        let blocks = |slice| self.n * self.s.state.div_ceil(slice) * self.s.heads;
        let [wide, narrow] = STATE_SLICES;
        let slice = if blocks(wide) >= 2 * PROCESSORS { wide } else { narrow };
        let kernel = self
            .kernel(&format!("{name}{slice}"))?
            .rows(x)?
            .rows(b)?
            .tensor(&steps.delta)?
            .tensor(&steps.sums)?;
        let kernel = self.begin(kernel, begin)?.tensor(&borders)?.maybe(end)?;
        let bytes = self.xbc.dtype().size_in_bytes();
        let row = |columns: usize| columns * bytes + 16;
        let stages = if bytes == 2 { 3 } else { 2 };
        self.sizes(kernel, self.aligned(&[x, b]))?.launch(
            blocks(slice),
            STATE_THREADS,
            stages * CHUNK * (row(HEAD_DIM) + row(slice)),
        )?;
        Ok(borders)
    }

    /// The states before the chunks; the state after the last chunk goes to `last`.
    fn borders(&self, steps: &Steps, last: Option<&Tensor>) -> Result<Tensor> {
        let x = self.xbc.narrow(2, 0, self.width())?;
        let b = self.xbc.narrow(2, self.width(), self.s.state)?;
        self.states("ssd_states", (&x, &b), steps, self.initial.as_ref(), last)
    }

    fn chunk_kernel(&self, name: &str) -> Result<Kernel> {
        self.kernel(&format!("{name}{}", padded(self.s)))
    }
}

pub(super) fn forward(s: &Ssd, inputs: &Inputs) -> Result<Output> {
    let scan = Scan::new(s, inputs)?;
    let y = scan.empty((scan.n, scan.t, scan.width()), scan.xbc.dtype())?;
    let last = scan.empty(scan.state_dims(), DType::F32)?;
    if scan.n == 0 {
        let saved = Saved { borders: None };
        return Ok(Output { y, last, saved });
    }
    if scan.t <= FEW {
        let kernel = scan
            .kernel("ssd_few")?
            .rows(&scan.xbc)?
            .rows(&scan.dt)?
            .tensor(&scan.a_log)?
            .tensor(&scan.dt_bias)?
            .tensor(&scan.d)?;
        let kernel = scan.begin(kernel, scan.initial.as_ref())?.tensor(&y)?.tensor(&last)?;
        let blocks = scan.n * scan.width().div_ceil(FEW_WARPS);
        scan.sizes(kernel, false)?.launch(blocks, FEW_WARPS * 32, 0)?;
        let saved = Saved { borders: None };
        return Ok(Output { y, last, saved });
    }
    let steps = scan.steps()?;
    let borders = scan.borders(&steps, Some(&last))?;
    let tasks = scan.n * scan.chunks;
    let per_processor = match (scan.xbc.dtype(), padded(s)) {
        (DType::BF16, 64) => 4,
        (DType::BF16, _) => 3,
        _ => 2,
    };
    let per_block = heads_per_block(tasks, s.heads, per_processor * PROCESSORS, 1);
    let kernel = scan
        .chunk_kernel("ssd_outputs")?
        .rows(&scan.xbc)?
        .tensor(&steps.delta)?
        .tensor(&steps.sums)?
        .tensor(&scan.d)?
        .tensor(&borders)?
        .tensor(&y)?
        .int(per_block)?;
    scan.sizes(kernel, scan.aligned(&[&scan.xbc]))?.launch(
        (tasks, s.heads.div_ceil(per_block)),
        OUTPUT_THREADS,
        tiles(scan.xbc.dtype(), padded(s), 2, 2),
    )?;
    Ok(Output {
        y,
        last,
        saved: Saved { borders: Some(borders) },
    })
}

/// The number of heads of a chunk that a block takes, if `at_once` blocks run together.
///
/// Minimizes the time of a block's work: one unit per head, plus `extra` half units once per block.
fn heads_per_block(tasks: usize, heads: usize, at_once: usize, extra: usize) -> usize {
    let groups = (1..=heads.min(MAX_GROUPS)).min_by_key(|groups| {
        let waves = (tasks * groups).div_ceil(at_once);
        waves * (2 * heads.div_ceil(*groups) + extra)
    });
    heads.div_ceil(groups.unwrap_or(1))
}

/// The inputs of the chunks' gradients: time steps, states between chunks, and state gradients.
struct Borders {
    steps: Steps,
    states: Tensor,
    gradients: Tensor,
}

impl Scan<'_> {
    /// The gradients of the states between chunks; the initial states' gradient goes to `d_begin`.
    fn gradient_at_borders(
        &self,
        saved: Saved,
        dy: &Tensor,
        d_last: Option<&Tensor>,
        d_begin: Option<&Tensor>,
    ) -> Result<Borders> {
        let steps = self.steps()?;
        let borders = match saved.borders {
            Some(borders) if borders.dims() == self.border_dims() && borders.dtype() == self.xbc.dtype() => borders,
            Some(_) => candle_core::bail!(
                "ssd: the saved values belong to another scan; pass the values that forward returned"
            ),
            None => self.borders(&steps, None)?,
        };
        let c = self.xbc.narrow(2, self.width() + self.s.state, self.s.state)?;
        let d_borders = self.states("ssd_states_reverse", (dy, &c), &steps, d_last, d_begin)?;
        Ok(Borders {
            steps,
            states: borders,
            gradients: d_borders,
        })
    }

    /// Writes the input gradients to `d_xbc` and `d_dt`; adds the parameter gradients to `grads`.
    fn gradients_of_inputs(
        &self,
        at: &Borders,
        dy: &Tensor,
        d_xbc: &Tensor,
        d_dt: &Tensor,
        grads: ParameterGradients,
    ) -> Result<()> {
        let (rows, tasks, dtype) = (self.n * self.t, self.n * self.chunks, self.xbc.dtype());
        let per_block = heads_per_block(tasks, self.s.heads, PROCESSORS, 3);
        let groups = self.s.heads.div_ceil(per_block);
        let partial = self.empty((groups, rows, 2 * self.s.state), DType::F32)?;
        let by_chunk = || self.empty((tasks, self.s.heads), DType::F32);
        let (d_a_log, d_d, d_dt_bias) = (by_chunk()?, by_chunk()?, by_chunk()?);
        let kernel = self
            .chunk_kernel("ssd_gradients")?
            .rows(&self.xbc)?
            .rows(dy)?
            .tensor(&at.steps.delta)?
            .tensor(&at.steps.sums)?
            .tensor(&self.a_log)?
            .tensor(&self.d)?
            .tensor(&at.states)?
            .tensor(&at.gradients)?
            .tensor(d_xbc)?
            .tensor(d_dt)?
            .tensor(&partial)?
            .tensor(&d_a_log)?
            .tensor(&d_d)?
            .tensor(&d_dt_bias)?
            .int(per_block)?
            .long(rows);
        self.sizes(kernel, self.aligned(&[&self.xbc, dy]))?.launch(
            (tasks, groups),
            GRADIENT_THREADS,
            tiles(dtype, padded(self.s), 3, 3),
        )?;
        self.kernel("ssd_fold")?
            .tensor(&partial)?
            .tensor(d_xbc)?
            .long(rows)
            .int(self.width())?
            .int(2 * self.s.state)?
            .int(groups)?
            .launch(cuda::blocks(rows * 2 * self.s.state, 256).min(PROCESSORS * 16), 256, 0)?;
        cuda::add_columns(&d_a_log, grads.a_log.touch())?;
        cuda::add_columns(&d_d, grads.d.touch())?;
        cuda::add_columns(&d_dt_bias, grads.dt_bias.touch())
    }
}

pub(super) fn backward(
    s: &Ssd,
    inputs: &Inputs,
    saved: Saved,
    dy: &Tensor,
    d_last: Option<&Tensor>,
    grads: ParameterGradients,
) -> Result<Gradients> {
    let scan = Scan::new(s, inputs)?;
    let (n, t, dtype) = (scan.n, scan.t, scan.xbc.dtype());
    let dy = in_rows(&dy.to_dtype(dtype)?)?;
    let d_xbc = scan.empty((n, t, scan.width() + 2 * s.state), dtype)?;
    let d_dt = scan.empty((n, t, s.heads), dtype)?;
    let d_begin = match inputs.initial {
        Some(_) => Some(scan.empty(scan.state_dims(), DType::F32)?),
        None => None,
    };
    if n > 0 {
        let d_last = d_last.map(single).transpose()?;
        let borders = scan.gradient_at_borders(saved, &dy, d_last.as_ref(), d_begin.as_ref())?;
        scan.gradients_of_inputs(&borders, &dy, &d_xbc, &d_dt, grads)?;
    }
    let d_initial = match (inputs.initial, d_begin) {
        (Some(initial), Some(d_begin)) if initial.dims()[0] != n => Some(cuda::sum_sequences(&d_begin)?),
        (_, d_begin) => d_begin,
    };
    Ok(Gradients { d_xbc, d_dt, d_initial })
}
