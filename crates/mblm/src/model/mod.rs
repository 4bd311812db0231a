//! The model: a hierarchy of stages over bytes, and the blocks that make them up.
//!
//! See [`decoder`](Mblm) for the computation, `traverse` for its order, `evaluate` and `backward`
//! for inference and training, [`StageBlock`] for blocks, [`Objective`] for custom losses.

mod backward;
pub(crate) mod block;
pub(crate) mod compute;
mod decoder;
mod differentiate;
mod embedding;
mod encoder;
pub(crate) mod encoder_block;
mod encoder_walk;
mod evaluate;
mod forward;
pub(crate) mod gradients;
mod ids;
pub(crate) mod init;
mod kernels;
mod kind;
pub(crate) mod layers;
mod objective;
pub(crate) mod parameter;
mod pass;
mod recomputed;
mod room;
mod shards;
mod stage;
mod start;
pub(crate) mod state;
pub(crate) mod state_gradient;
mod streaming;
mod sums;
mod traverse;

pub use block::{Pass, Saved, StageBlock};
pub use compute::Compute;
pub use decoder::Mblm;
pub use encoder::{MaskedBatch, MblmEncoder};
pub use encoder_block::EncoderBlock;
pub use forward::ForwardPass;
pub use gradients::Gradients;
pub use ids::{Ids, ModelBatch};
pub use init::{Init, ParameterSource, Seeded};
pub use kernels::without_kernels;
pub use kind::Model;
pub use objective::{CrossEntropy, LogitRows, Objective, PredictedByte, RowGradients};
pub use parameter::{Builder, Parameter, Parameters};
pub use pass::{Chunking, Loss, TrainingPass, Watch};
pub use recomputed::{Recomputed, SequenceBlock};
pub(crate) use shards::{Shards, Split};
pub use state::State;
pub use state_gradient::StateGradient;
pub(crate) use traverse::{even_groups, sequences_in};
