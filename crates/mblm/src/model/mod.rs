//! The model: a hierarchy of stages over bytes, and the blocks that make them up.
//!
//! Read [`decoder`](Mblm) for what is computed, `backward` for how it is trained, [`StageBlock`] for what a block is.

mod backward;
pub(crate) mod block;
pub(crate) mod compute;
mod decoder;
mod embedding;
mod encoder;
pub(crate) mod encoder_block;
pub(crate) mod gradients;
mod ids;
pub(crate) mod init;
mod kernels;
mod kind;
pub(crate) mod layers;
pub(crate) mod parameter;
mod recomputed;
mod shards;
mod stage;
pub(crate) mod state;
mod streaming;

pub use crate::blocks::{BlockArgs, BlockRegistry};
pub use backward::{Chunking, Loss, TrainingPass};
pub use block::{Pass, Saved, StageBlock};
pub use compute::Compute;
pub use decoder::Mblm;
pub(crate) use decoder::{even_groups, sequences_in};
pub use encoder::{MaskedBatch, MblmEncoder};
pub use encoder_block::EncoderBlock;
pub use gradients::Gradients;
pub use ids::{Ids, ModelBatch};
pub use init::{Init, ParameterSource, Seeded};
pub use kernels::without_kernels;
pub use kind::Model;
pub use parameter::{Builder, Parameter, Parameters};
pub use recomputed::{Recomputed, SequenceBlock};
pub(crate) use shards::{Shards, Split};
pub use state::{State, StateGradient};
pub use streaming::Watch;
