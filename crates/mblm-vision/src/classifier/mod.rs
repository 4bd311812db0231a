//! The baseline for questions about images: a CNN sees the image, an LSTM reads the question, a classifier answers.
//!
//! ```text
//! image (b, 3, h, w) ─▶ [convolution 3 × 3, stride 2 ─▶ group norm ─▶ ReLU]* ─▶ flat ─┐
//! words (b, t) ─▶ embedding ─▶ LSTM ─▶ last output ─────────────────────────────────────┴▶ linear ─▶ ReLU ─▶ linear ─▶ (b, 28)
//! ```
//!
//! It is [`Trainable`](mblm::train::Trainable), so that [`Trainer`](mblm::train::Trainer) trains it as it trains byte models.
//!
//! This is the CNN + LSTM of the CLEVR paper (Johnson et al. 2017) with a CNN that is trained from nothing, as the byte models it is
//! compared with are. It is made of the layers of `candle-nn` with candle's autograd: what it computes matters here, not how fast.
//!
//! | file | holds |
//! |---|---|
//! | `config` | the configuration of a run |
//! | `words` | questions as numbers of words |
//! | `samples` | questions and images as a data set |
//! | `network` | the network, its files, its answers |

mod config;
mod network;
mod samples;
mod words;

pub use config::{ClassifierExperiment, CnnLstmConfig};
pub use network::CnnLstm;
pub use samples::ImageQuestions;
pub use words::Words;

use mblm::{Counted, Unit};

/// What the classifier predicts one by one.
pub const ANSWER: Unit = Unit {
    singular: "answer",
    plural: "answers",
    counted: Counted::Samples,
};
