//! The baseline for questions about pictures: a CNN sees the picture, an LSTM reads the question, a classifier answers.
//!
//! ```text
//! picture (b, 3, h, w) ─▶ [convolution 3 × 3, stride 2 ─▶ group norm ─▶ ReLU]* ─▶ flat ─┐
//! words (b, t) ─▶ embedding ─▶ LSTM ─▶ last output ─────────────────────────────────────┴▶ linear ─▶ ReLU ─▶ linear ─▶ (b, 28)
//! ```
//!
//! This is the CNN + LSTM of the CLEVR paper (Johnson et al. 2017) with a CNN that is trained from nothing, as the byte models it is
//! compared with are. It is made of ordinary tensor operations with candle's autograd: what it computes matters here, not how fast.
//!
//! | file | holds |
//! |---|---|
//! | `words` | questions as numbers of words |
//! | `samples` | questions and pictures as a data set |
//! | `network` | the network, its files, its answers |
//! | `trainer` | a run |

mod network;
mod samples;
mod trainer;
mod words;

pub use network::CnnLstm;
pub use samples::PictureQuestions;
pub use trainer::{Learned, train};
pub use words::Words;
