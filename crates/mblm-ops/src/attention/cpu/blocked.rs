//! Long sequences: tiles of queries and keys, memory linear in their number.
//!
//! Forward keeps for each query the greatest score m and the sum l of e^(score - m) over the tiles so far, and rescales
//! the output when m grows. Backward computes the weights again from m and 1/l, and with D = dout·out
//!
//! ```text
//! dv = wᵀ dout      dscore = w ⊙ (dout vᵀ - D)      dq̂ = dscore k̂ / √d_h      dk̂ = dscoreᵀ q̂ / √d_h
//! ```
//!
//! Backward cuts the keys of each head into strips, one task each, that own the gradients of their keys; their shares of
//! the gradient of the queries are added in order.

mod backward;
mod forward;
mod tile;

pub(super) use backward::backward;
pub(super) use forward::forward;
