//! Optimizers: from gradients to steps.
//!
//! | file | holds |
//! |---|---|
//! | `rule.rs` | [`Optimizer`], and [`OptimizerSpec`], which builds one for a model's parameters |
//! | `clip.rs` | the gradient's norm and its clipping, the same for all optimizers |
//! | `adam.rs` | [`Adam`], as published, and [`AdamW`] |
//! | `sgd.rs` | [`Sgd`] |
//! | `decayed.rs` | the parameters with weight decay |

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
