//! One position through a whole stack of Transformer layers and its final norm: a decoding step.
//!
//! ```text
//! each layer   x = x + W_o · attention(q, k, v)              q = W_q a, [k | v] = W_kv a,  a = RMSNorm(shift(x))
//!              x = x + W_2 · gelu(W_1 f + b_1) + b_2                                       f = RMSNorm(shift(x))
//! at the end   RMSNorm(x)                                    x (n, 1, d)
//! ```
//!
//! The formulas are those of [`add_norm`](crate::add_norm) ([`Norm::Clamped`]),
//! [`linear`](crate::linear), [`attention`](crate::attention) and [`gelu`](crate::gelu). For
//! inference only: there is no backward pass.
//!
//! A step reads every weight once and computes little, so a GPU would spend its time between small
//! kernels. Therefore one cooperative kernel takes the position through all layers. A single launch
//! needs every layer's tensors at once: [`Layer`] and [`LayerState`] are the kernel's arguments,
//! not layers of a model. The model that owns the layers asks [`takes`]; if the answer is no, it
//! calls the operations of its layers one by one.
//!
//! ```
//! use candle_core::{DType, Device, Tensor};
//! use mblm_ops::attention::Attention;
//! use mblm_ops::decode;
//!
//! let attention = Attention { heads: 2, head_dim: 16, rotary: true, causal: true, dropout: None };
//! let x = Tensor::zeros((1, 1, 32), DType::F32, &Device::Cpu)?;
//! assert!(!decode::takes(&attention, &x, 64, 0)); // no kernel for the CPU
//! # Ok::<(), candle_core::Error>(())
//! ```

#[cfg(feature = "cuda")]
mod cuda;
pub(crate) mod reference;

use candle_core::{D, Result, Tensor};

use crate::add_norm::Norm;
use crate::attention::Attention;

/// The kind of every norm, including the last.
const NORM: Norm = Norm::Clamped;

/// The kernel's argument for the parameters of one layer.
///
/// The layer has d channels, a attention channels (heads · channels of a head) and m inner
/// channels. Weights have the type of the activations; gains and biases the type of the parameters.
#[derive(Clone, Debug)]
pub struct Layer {
    /// (d).
    pub attention_gain: Tensor,
    /// W_q (a, d).
    pub to_q: Tensor,
    /// W_kv (2·a, d).
    pub to_kv: Tensor,
    /// W_o (d, a).
    pub to_out: Tensor,
    /// (d).
    pub feed_forward_gain: Tensor,
    /// W_1 (m, d).
    pub inner: Tensor,
    /// b_1 (m).
    pub inner_bias: Tensor,
    /// W_2 (d, m).
    pub outer: Tensor,
    /// b_2 (d).
    pub outer_bias: Tensor,
}

/// The kernel's argument for the state of one layer after the previous positions.
#[derive(Clone, Debug)]
pub struct LayerState {
    /// The row before in the attention's token shift (n or 1, 1, d); `None` for zeros.
    pub attention_shift: Option<Tensor>,
    /// The row before in the feed-forward's token shift (n or 1, 1, d); `None` for zeros.
    pub feed_forward_shift: Option<Tensor>,
    /// Rotated keys and values of the s positions before (n or 1, s, 2·a), if any.
    pub past: Option<Tensor>,
    /// Contiguous memory (n, more than s, 2·a); the step writes the new key and value to row s.
    pub room: Tensor,
    /// Whether the step also copies the past, which is in other memory, into the rows before row s.
    pub moves: bool,
}

impl LayerState {
    /// s, the number of past rows.
    fn past_rows(&self) -> Result<usize> {
        self.past.as_ref().map_or(Ok(0), |past| past.dim(1))
    }

    /// Writes the new row, and a past that moves, to the room.
    fn keep(&self, present: &Tensor) -> Result<()> {
        let s = self.past_rows()?;
        if let Some(past) = self.past.as_ref().filter(|_| self.moves && s > 0) {
            let (n, _, width) = self.room.dims3()?;
            self.room
                .slice_set(&past.broadcast_as((n, s, width))?.contiguous()?, 1, 0)?;
        }
        self.room.slice_set(&present.contiguous()?, 1, s)
    }
}

/// The results of [`step`].
#[derive(Clone, Debug)]
pub struct Output {
    /// The normed result (n, 1, d).
    pub out: Tensor,
    /// The input rows of each layer's two token shifts (layers, 2, n, 1, d), the attention's first.
    pub shifts: Tensor,
}

/// The results of the reference implementation.
///
/// The output, and for each layer the two shifted rows and the present row.
struct Computed {
    out: Tensor,
    shifts: Vec<[Tensor; 2]>,
    present: Vec<Tensor>,
}

/// Whether a kernel supports a step of a stack with `inner` channels after `past` positions.
pub fn takes(a: &Attention, x: &Tensor, inner: usize, past: usize) -> bool {
    #[cfg(feature = "cuda")]
    return cuda::takes(a, x, inner, past);
    #[cfg(not(feature = "cuda"))]
    {
        let _ = (a, x, inner, past);
        false
    }
}

/// Takes `x` (n, 1, d) at `position` through the layers and norms the result with `gain` (d).
///
/// The attention is causal and has no dropout. Each layer's new row is written to the room of its
/// state. Steps that the kernel does not support run the reference implementation, which is slow.
pub fn step(
    a: &Attention,
    layers: &[Layer],
    states: &[LayerState],
    gain: &Tensor,
    position: usize,
    x: &Tensor,
) -> Result<Output> {
    check(a, layers, states, gain, x)?;
    #[cfg(feature = "cuda")]
    if let Some(output) = cuda::step(a, layers, states, gain, position, x)? {
        return Ok(output);
    }
    let computed = reference::step(a, layers, states, gain, position, x)?;
    for (state, present) in states.iter().zip(&computed.present) {
        state.keep(present)?;
    }
    let shifts: Vec<Tensor> = (computed.shifts.iter())
        .map(|pair| Tensor::stack(pair, 0))
        .collect::<Result<_>>()?;
    Ok(Output {
        out: computed.out,
        shifts: Tensor::stack(&shifts, 0)?,
    })
}

fn check(a: &Attention, layers: &[Layer], states: &[LayerState], gain: &Tensor, x: &Tensor) -> Result<()> {
    let (n, t, d) = x.dims3()?;
    let width = a.heads * a.head_dim;
    if t != 1 || layers.is_empty() || layers.len() != states.len() || !a.causal || a.dropout.is_some() {
        candle_core::bail!(
            "decode: expected one position, at least one layer, as many states, causal attention without dropout; found {t} \
             positions, {} layers, {} states, {a:?}",
            layers.len(),
            states.len()
        );
    }
    let inner = layers[0].inner.dim(0)?;
    let s = states[0].past_rows()?;
    expect("the last gain", gain, &[d])?;
    for (layer, state) in layers.iter().zip(states) {
        expect("the attention's gain", &layer.attention_gain, &[d])?;
        expect("W_q", &layer.to_q, &[width, d])?;
        expect("W_kv", &layer.to_kv, &[2 * width, d])?;
        expect("W_o", &layer.to_out, &[d, width])?;
        expect("the feed-forward's gain", &layer.feed_forward_gain, &[d])?;
        expect("W_1", &layer.inner, &[inner, d])?;
        expect("b_1", &layer.inner_bias, &[inner])?;
        expect("W_2", &layer.outer, &[d, inner])?;
        expect("b_2", &layer.outer_bias, &[d])?;
        for shift in [&state.attention_shift, &state.feed_forward_shift]
            .into_iter()
            .flatten()
        {
            let sequences = if shift.dim(0)? == 1 { 1 } else { n };
            expect("a row before", shift, &[sequences, 1, d])?;
        }
        if let Some(past) = &state.past {
            let sequences = if past.dim(0)? == 1 { 1 } else { n };
            expect("the past", past, &[sequences, s, 2 * width])?;
        }
        let rows = state.room.dim(D::Minus2)?;
        expect("room", &state.room, &[n, rows, 2 * width])?;
        if rows <= s || state.past_rows()? != s || !state.room.is_contiguous() {
            candle_core::bail!(
                "decode: expected room without gaps for more than {s} rows, found {:?}",
                state.room
            );
        }
    }
    Ok(())
}

fn expect(what: &str, tensor: &Tensor, dims: &[usize]) -> Result<()> {
    if tensor.dims() != dims {
        candle_core::bail!("decode: expected {what} of {dims:?}, found {:?}", tensor.dims());
    }
    Ok(())
}

#[cfg(test)]
mod tests;
