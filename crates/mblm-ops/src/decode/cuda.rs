//! The CUDA kernel: up to eight sequences, activations and weights in `bf16`, gains and biases
//! `f32`.

use candle_core::cuda_backend::WrapErr;
use candle_core::cuda_backend::cudarc::driver::{DeviceRepr, sys};
use candle_core::{DType, Device, Result, Tensor};

use super::{Layer, LayerState, Output};
use crate::attention::Attention;
use crate::cuda::{self, Kernel, Module, pointer};

const MODULE: Module = module!(DECODE);

/// Constants that the kernel repeats.
///
/// Threads and warps of a block, rows of a tile, columns of a chunk, products of a layer, layers of
/// a launch.
const THREADS: usize = 512;
const WARPS: usize = THREADS / 32;
const TILE: usize = 8;
const CHUNK: usize = 64;
const PRODUCTS: usize = 4;
const MAX_LAYERS: usize = 30;
/// Pieces that a warp prefetches; there is a kernel for each of these numbers.
const SLOTS: [usize; 3] = [12, 8, 4];
/// Shared memory of a block beside its dynamic shared memory.
const FIXED_SHARED: usize = 1 << 10;
/// Most sequences of the kernels for more than one.
const MAX_SEQUENCES: usize = 8;
/// Most channels of a row.
///
/// Each thread holds eight channels, or four times eight if several rows share the threads.
const MAX_CHANNELS: usize = 8 * THREADS;
const MAX_CHANNELS_OF_SEVERAL: usize = 4 * 8 * THREADS / MAX_SEQUENCES;
/// Channels of the widest head that the tests cover; a warp could hold twice as many.
const MAX_HEAD_DIM: usize = 128;
/// Most past rows of all sequences together.
///
/// Every block attends to the pasts of all sequences by itself; with more rows that is slower than
/// kernels that divide them among blocks.
const MAX_PAST: usize = 512;

/// The parameters of one layer, as in the kernel.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct LayerPointers {
    weights: [u64; 5],
    gains_and_biases: [u64; 4],
    shifts: [u64; 2],
    past: u64,
    room: u64,
    past_sequence: i32,
    room_sequence: i32,
    shift_sequence: [i32; 2],
    past_row: i32,
    past_moves: i32,
}

/// The kernel's argument.
#[repr(C)]
#[derive(Clone, Copy)]
struct Call {
    x: u64,
    gain: u64,
    out: u64,
    shifts: u64,
    words: u64,
    position: i64,
    sequences: i32,
    layers: i32,
    d: i32,
    heads: i32,
    head_dim: i32,
    inner: i32,
    past: i32,
    rotary: i32,
    scale: f32,
    layer: [LayerPointers; MAX_LAYERS],
}

// SAFETY: it consists of numbers, laid out as the kernel's parameter is.
unsafe impl DeviceRepr for Call {}

/// The sizes of a call.
#[derive(Clone, Copy)]
struct Sizes {
    sequences: usize,
    d: usize,
    heads: usize,
    head_dim: usize,
    inner: usize,
    past: usize,
}

impl Sizes {
    fn width(&self) -> usize {
        self.heads * self.head_dim
    }

    /// Rows and columns of each product of a layer.
    fn products(&self) -> [(usize, usize); PRODUCTS] {
        let (d, width, inner) = (self.d, self.width(), self.inner);
        [(3 * width, d), (d, width), (inner, d), (d, inner)]
    }

    /// The number of sequences of the kernel for this call.
    fn kernel(&self) -> usize {
        if self.sequences == 1 { 1 } else { MAX_SEQUENCES }
    }

    /// Words that one layer publishes.
    fn words(&self) -> usize {
        self.products().iter().map(|(rows, _)| self.sequences * rows / 2).sum()
    }

    fn fit(&self) -> bool {
        let each = [self.d, self.head_dim];
        each.iter().all(|size| *size > 0 && size.is_multiple_of(16))
            && self.inner > 0
            && self.inner.is_multiple_of(8)
            && self.heads > 0
            && match self.sequences {
                1 => self.d <= MAX_CHANNELS,
                2..=MAX_SEQUENCES => self.d <= MAX_CHANNELS_OF_SEVERAL,
                _ => false,
            }
            && self.head_dim <= MAX_HEAD_DIM
            && self.sequences * self.past <= MAX_PAST
    }

    /// Bytes of shared memory of each of `blocks` blocks, without the space for weights.
    fn shared(&self, blocks: usize) -> usize {
        let widest = self.d.max(self.width()).max(self.inner) + CHUNK / 2;
        let halves = self.sequences * (widest + 3 * self.width() + self.d);
        let sums = |(rows, columns): (usize, usize)| {
            (rows / TILE).div_ceil(blocks) * TILE * self.kernel() * columns.div_ceil(CHUNK)
        };
        let sums = self.products().map(sums).into_iter().max().unwrap_or(0);
        size_of::<u16>() * halves + size_of::<f32>() * (self.head_dim + sums)
    }
}

/// The launch configuration of the kernel on a device.
struct Plan {
    blocks: usize,
    slots: usize,
    shared: usize,
}

impl Plan {
    fn new(sizes: &Sizes, device: &Device) -> Result<Option<Self>> {
        let stream = device.as_cuda_device()?.cuda_stream();
        let attribute = |which| -> Result<usize> {
            let value = stream.context().attribute(which).w()?;
            usize::try_from(value).map_err(candle_core::Error::wrap)
        };
        let blocks = attribute(sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?;
        let most = attribute(sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)?;
        let together = attribute(sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_COOPERATIVE_LAUNCH)?;
        let shared = |slots: usize| sizes.shared(blocks) + slots * WARPS * TILE * CHUNK * size_of::<u16>();
        let slots = SLOTS
            .into_iter()
            .find(|slots| shared(*slots) + FIXED_SHARED <= most)
            .filter(|_| together != 0);
        Ok(slots.map(|slots| Self {
            blocks,
            slots,
            shared: shared(slots),
        }))
    }
}

pub(super) fn takes(a: &Attention, x: &Tensor, inner: usize, past: usize) -> bool {
    plan(a, x, inner, past).is_some()
}

/// The sizes of a step and the launch configuration, if the kernel supports the step.
fn plan(a: &Attention, x: &Tensor, inner: usize, past: usize) -> Option<(Sizes, Plan)> {
    let Ok((sequences, 1, d)) = x.dims3() else {
        return None;
    };
    let sizes = Sizes {
        sequences,
        d,
        heads: a.heads,
        head_dim: a.head_dim,
        inner,
        past,
    };
    let kind = x.device().is_cuda() && x.dtype() == DType::BF16 && a.causal && a.dropout.is_none();
    let plan = (kind && sizes.fit()).then(|| Plan::new(&sizes, x.device()));
    plan?.ok().flatten().map(|plan| (sizes, plan))
}

/// Runs a step that the kernel [`takes`].
pub(super) fn step(
    a: &Attention,
    layers: &[Layer],
    states: &[LayerState],
    gain: &Tensor,
    position: usize,
    x: &Tensor,
) -> Result<Option<Output>> {
    let Some((sizes, plan)) = plan(a, x, layers[0].inner.dim(0)?, states[0].past_rows()?) else {
        return Ok(None);
    };
    let (device, n, d) = (x.device(), sizes.sequences, sizes.d);
    let int = |value: usize| i32::try_from(value).map_err(candle_core::Error::wrap);
    let x = x.contiguous()?;
    let out = cuda::empty((n, 1, d), DType::BF16, device)?;
    let shifts = cuda::empty((layers.len(), 2, n, 1, d), DType::BF16, device)?;
    let words = Tensor::zeros(layers.len() * sizes.words(), DType::U32, device)?;
    let scale = (sizes.head_dim as f64).powf(-0.5) * std::f64::consts::LOG2_E;
    let mut call = Call {
        x: place(&x, DType::BF16)?,
        gain: 0,
        out: 0,
        shifts: place(&shifts, DType::BF16)?,
        words: place(&words, DType::U32)?,
        position: i64::try_from(position).map_err(candle_core::Error::wrap)?,
        sequences: int(n)?,
        layers: 0,
        d: int(d)?,
        heads: int(sizes.heads)?,
        head_dim: int(sizes.head_dim)?,
        inner: int(sizes.inner)?,
        past: int(sizes.past)?,
        rotary: i32::from(a.rotary),
        scale: scale as f32,
        layer: [LayerPointers::default(); MAX_LAYERS],
    };
    let mut rest = layers.len();
    let mut between = Vec::new(); // residual streams between launches
    for (layers, states) in layers.chunks(MAX_LAYERS).zip(states.chunks(MAX_LAYERS)) {
        for ((to, layer), state) in call.layer.iter_mut().zip(layers).zip(states) {
            *to = pointers(layer, state)?;
        }
        rest -= layers.len();
        call.layers = int(layers.len())?;
        (call.gain, call.out) = match rest {
            0 => (place(gain, DType::F32)?, place(&out, DType::BF16)?),
            _ => {
                between.push(cuda::empty_like(&out)?);
                (0, place(&between[between.len() - 1], DType::BF16)?)
            }
        };
        Kernel::untyped(device, MODULE, &format!("decode_{}x{}", plan.slots, sizes.kernel()))?.launch_together(
            &call,
            plan.blocks,
            THREADS,
            plan.shared,
        )?;
        call.x = call.out;
        call.shifts += (layers.len() * 2 * n * d * size_of::<u16>()) as u64;
        call.words += (layers.len() * sizes.words() * size_of::<u32>()) as u64;
    }
    Ok(Some(Output { out, shifts }))
}

fn pointers(layer: &Layer, state: &LayerState) -> Result<LayerPointers> {
    let weight = |tensor| place(tensor, DType::BF16);
    let wide = |tensor| place(tensor, DType::F32);
    // a dimension of one has stride 0: all sequences share its content
    let stride = |tensor: &Tensor| if tensor.dims()[0] == 1 { 0 } else { tensor.stride()[0] };
    let int = |value: usize| i32::try_from(value).map_err(candle_core::Error::wrap);
    let mut pointers = LayerPointers::default();
    for (index, row) in [&state.attention_shift, &state.feed_forward_shift]
        .into_iter()
        .enumerate()
    {
        if let Some(row) = row {
            pointers.shifts[index] = place(row, DType::BF16)?;
            pointers.shift_sequence[index] = int(stride(row))?;
        }
    }
    if let Some(past) = state.past.as_ref().filter(|past| past.elem_count() > 0) {
        let first = past.narrow(0, 0, 1)?.narrow(1, 0, 1)?;
        pointers.past = place(&first, DType::BF16)?;
        pointers.past_sequence = int(stride(past))?;
        pointers.past_row = int(past.stride()[1])?;
    }
    Ok(LayerPointers {
        weights: [
            weight(&layer.to_q)?,
            weight(&layer.to_kv)?,
            weight(&layer.to_out)?,
            weight(&layer.inner)?,
            weight(&layer.outer)?,
        ],
        gains_and_biases: [
            wide(&layer.attention_gain)?,
            wide(&layer.feed_forward_gain)?,
            wide(&layer.inner_bias)?,
            wide(&layer.outer_bias)?,
        ],
        room: place(&state.room, DType::BF16)?,
        room_sequence: int(stride(&state.room))?,
        past_moves: i32::from(state.moves),
        ..pointers
    })
}

/// The device address of a contiguous tensor, aligned for reads of 16 bytes.
fn place(tensor: &Tensor, dtype: DType) -> Result<u64> {
    let start = pointer(tensor)?;
    if tensor.dtype() != dtype || !tensor.is_contiguous() || !start.is_multiple_of(16) {
        candle_core::bail!("decode: expected {dtype:?} without gaps, in multiples of 16 bytes, found {tensor:?}");
    }
    Ok(start)
}
