//! The reference implementation: scores of all queries and keys as one tensor.

use candle_core::{D, DType, Device, Result, Tensor};

use super::Attention;
use crate::dropout::Dropout;
use crate::precision::widened;
use crate::rope;

/// `out` and `present` of [`attention::forward`](super::forward), differentiable by candle.
///
/// Memory is quadratic in t. Half precision is computed in `f32`.
pub(crate) fn forward(
    a: &Attention,
    q: &Tensor,
    kv: &Tensor,
    past: Option<&Tensor>,
    start: usize,
    visible: Option<&Tensor>,
) -> Result<(Tensor, Tensor)> {
    let (n, t, width) = q.dims3()?;
    let given = q.dtype();
    let (q, kv) = (widened(q)?, widened(kv)?);
    let (k, v) = (kv.narrow(2, 0, width)?, kv.narrow(2, width, width)?);
    let (q, k) = match a.rotary {
        true => (rotate(a, &q, start)?, rotate(a, &k, start)?),
        false => (q, k),
    };
    let present = Tensor::cat(&[&k, &v], 2)?;
    let rows = match past {
        Some(past) if past.elem_count() > 0 => {
            let (_, s, row) = past.dims3()?;
            let past = widened(past)?.broadcast_as((n, s, row))?;
            Tensor::cat(&[&past, &present], 1)?
        }
        _ => present.clone(),
    };
    let keys = split(a, &rows.narrow(2, 0, width)?)?; // (n, h, s + t, d_h)
    let values = split(a, &rows.narrow(2, width, width)?)?; // (n, h, s + t, d_h)
    let queries = (split(a, &q)? * (a.head_dim as f64).powf(-0.5))?; // (n, h, t, d_h)
    let scores = queries.matmul(&keys.t()?.contiguous()?)?; // (n, h, t, s + t)
    let weights = softmax(&mask(a, &scores, visible)?)?;
    let weights = match &a.dropout {
        Some(dropout) => (&weights * factors(dropout, &weights)?)?,
        None => weights,
    };
    let out = weights.matmul(&values)?.transpose(1, 2)?.reshape((n, t, width))?; // (n, h, t, d_h) → (n, t, h·d_h)
    Ok((out.to_dtype(given)?, present.to_dtype(given)?))
}

/// (n, t, h·d_h) → (n, h, t, d_h).
fn split(a: &Attention, x: &Tensor) -> Result<Tensor> {
    let (n, t, _) = x.dims3()?;
    x.reshape((n, t, a.heads, a.head_dim))?.transpose(1, 2)?.contiguous()
}

/// x·cos + rotate_half(x)·sin for each head of `x` (n, t, h·d_h).
fn rotate(a: &Attention, x: &Tensor, start: usize) -> Result<Tensor> {
    let (n, t, width) = x.dims3()?;
    let half = a.head_dim / 2;
    let (cos, sin) = rope::reference::tables(start, t, a.head_dim, x)?;
    let (cos, sin) = (cos.unsqueeze(1)?, sin.unsqueeze(1)?); // (t, 1, d_h/2)
    let x = x.reshape((n, t, a.heads, a.head_dim))?;
    let (first, second) = (x.narrow(D::Minus1, 0, half)?, x.narrow(D::Minus1, half, half)?);
    let rotated = Tensor::cat(
        &[
            (first.broadcast_mul(&cos)? - second.broadcast_mul(&sin)?)?,
            (second.broadcast_mul(&cos)? + first.broadcast_mul(&sin)?)?,
        ],
        D::Minus1,
    )?;
    rotated.reshape((n, t, width))
}

/// Scores (n, h, t, s + t) with the lowest finite number at hidden keys and -∞ at later keys.
fn mask(a: &Attention, scores: &Tensor, visible: Option<&Tensor>) -> Result<Tensor> {
    let (n, _, t, keys) = scores.dims4()?;
    let past = keys - t;
    let device = scores.device();
    let replace = |allowed: Tensor, scores: &Tensor, value: f64| -> Result<Tensor> {
        let value = Tensor::new(value, &Device::Cpu)?
            .to_dtype(scores.dtype())?
            .to_device(device)?
            .broadcast_as(scores.shape())?;
        allowed.broadcast_as(scores.shape())?.where_cond(scores, &value)
    };
    let mut scores = scores.clone();
    if let Some(visible) = visible {
        let allowed = match past {
            0 => visible.clone(),
            _ => Tensor::cat(&[&Tensor::ones((n, past), DType::U8, device)?, visible], 1)?,
        };
        let allowed = allowed.reshape((n, 1, 1, keys))?;
        let lowest = match scores.dtype() {
            DType::F64 => f64::MIN,
            _ => f64::from(f32::MIN),
        };
        scores = replace(allowed, &scores, lowest)?;
    }
    if a.causal {
        let allowed: Vec<u8> = (0..t)
            .flat_map(|query| (0..keys).map(move |key| u8::from(key <= past + query)))
            .collect();
        let allowed = Tensor::from_vec(allowed, (1, 1, t, keys), device)?;
        scores = replace(allowed, &scores, f64::NEG_INFINITY)?;
    }
    Ok(scores)
}

fn softmax(scores: &Tensor) -> Result<Tensor> {
    let maxima = scores.max_keepdim(D::Minus1)?.detach();
    let powers = scores.broadcast_sub(&maxima)?.exp()?;
    powers.broadcast_div(&powers.sum_keepdim(D::Minus1)?)
}

/// The factors of the weights under dropout: 0 or the scale.
fn factors(dropout: &Dropout, weights: &Tensor) -> Result<Tensor> {
    let factors: Vec<f64> = (0..weights.elem_count() as u64)
        .map(|element| if dropout.keeps(element) { dropout.scale() } else { 0.0 })
        .collect();
    Tensor::from_vec(factors, weights.shape(), &Device::Cpu)?
        .to_dtype(weights.dtype())?
        .to_device(weights.device())
}
