//! The baseline for questions about images: a CNN reads the image, an LSTM the question, and a
//! classifier answers.
//!
//! ```text
//! image (b, 3, h, w) ─▶ [convolution 3 × 3, stride 2 ─▶ group norm ─▶ ReLU]* ─▶ flat ─┐
//! words (b, t) ─▶ embedding ─▶ LSTM ─▶ last output ─────────────────────────────────────┴▶ linear ─▶ ReLU ─▶ linear ─▶ (b, 28)
//! ```
//!
//! It is [`Trainable`](mblm::train::Trainable): [`Trainer`](mblm::train::Trainer) trains it like a
//! byte model.
//!
//! This is the CNN + LSTM of the CLEVR paper (Johnson et al. 2017), with its CNN trained from
//! scratch like the byte models it is compared with. It uses the layers of `candle-nn` and candle's
//! autograd, since its speed does not matter here.
//!
//! | file | holds |
//! |---|---|
//! | `config` | the configuration of a run |
//! | `words` | questions as word numbers |
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

/// The unit of the classifier's predictions.
pub const ANSWER: Unit = Unit {
    singular: "answer",
    plural: "answers",
    counted: Counted::Samples,
};
