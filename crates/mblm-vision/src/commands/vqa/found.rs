//! What was answered, by whichever model.

use std::path::PathBuf;
use std::sync::Arc;

use crate::clevr::Clevr;
use crate::vqa::Answered;

/// What a model answered.
pub(super) struct Found {
    /// In the order of the questions.
    pub(super) answered: Vec<Answered>,
    pub(super) data: Arc<Clevr>,
    /// The data set's.
    pub(super) folder: PathBuf,
    /// Whether questions are missing, because it was asked to stop.
    pub(super) stopped: bool,
}
