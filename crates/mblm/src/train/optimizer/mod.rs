//! What turns gradients into steps.
//!
//! | file | holds |
//! |---|---|
//! | `rule.rs` | [`Optimizer`], what steps, and [`OptimizerSpec`], what makes one for a model's parameters |
//! | `clip.rs` | the gradient's norm and its clipping, the same for all optimizers |
//! | `adam.rs` | [`Adam`], as published, and [`AdamW`] |
//! | `sgd.rs` | [`Sgd`] |
//! | `decayed.rs` | which parameters weight decay is for |

mod adam;
mod clip;
mod decayed;
mod rule;
mod sgd;

#[cfg(test)]
mod tests;

pub use adam::{Adam, AdamW};
pub use clip::GradientNorm;
pub use rule::{LoadTensor, Optimizer, OptimizerSpec};
pub use sgd::Sgd;
