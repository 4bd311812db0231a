//! Questions about images: the accuracy of a model's answers, by type of question.
//!
//! The model reads a sample of [`Clevr`] up to its answer and generates the answer twice.
//! *Constrained*: each id is the best of those that lead to a possible answer. *Free*: each id is
//! the best of all, until the end of the part. A categorical answer is one id: its constrained
//! answer is the best class, its free answer must also stop there.
//!
//! The [`Prior`] shows the accuracy without the image: it gives the answer that was most frequent
//! in training for the question's template.
//!
//! | file | holds |
//! |---|---|
//! | `answers` | the possible answers, as ids |
//! | `asking` | batches of questions, and the model's answers |
//! | `tally` | right answers by type |
//! | `prior` | the most frequent answer of a template |

mod answers;
mod asking;
mod prior;
mod tally;
#[cfg(test)]
mod tests;

pub use asking::{Answered, Asking};
pub use prior::Prior;
pub use tally::{Share, Tally};

#[cfg(doc)]
use crate::clevr::Clevr;
