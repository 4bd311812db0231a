//! Questions about images: how often a model's answer is the right one, by type of question.
//!
//! The model reads a sample of [`Clevr`] up to where its answer begins and writes the answer twice: *constrained*, where each id is
//! the best of those that lead to one of the answers there are, and *free*, the best of all ids until the end of the part. A
//! categorical answer is one id, the answer of the first kind is then the best class; the second kind also has to stop there.
//!
//! Beside them stands what can be said without looking: the [`Prior`] gives the answer that was most frequent in training among the
//! questions of the same template.
//!
//! | file | holds |
//! |---|---|
//! | `answers` | the answers that may be given, as ids |
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
