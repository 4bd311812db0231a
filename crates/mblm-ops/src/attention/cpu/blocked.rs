//! Attention over long sequences: tiles of queries and keys, memory linear in their number.
//!
//! The forward pass keeps for each query the greatest score m and the sum l of e^(score - m) over
//! the tiles so far, and rescales the output when m grows. The backward pass recomputes the weights
//! from m and 1/l. With D = dout·out:
//!
//! ```text
//! dv = wᵀ dout      dscore = w ⊙ (dout vᵀ - D)      dq̂ = dscore k̂ / √d_h      dk̂ = dscoreᵀ q̂ / √d_h
//! ```
//!
//! The backward pass cuts the keys of each head into strips, one task each. A strip owns the
//! gradients of its keys and values; the strips' contributions to the query gradients are added in
//! order.

mod backward;
mod forward;
mod tile;

pub(super) use backward::backward;
pub(super) use forward::forward;
