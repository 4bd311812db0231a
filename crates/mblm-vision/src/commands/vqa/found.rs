//! The answers of a byte model or of the baseline.

use std::path::PathBuf;
use std::sync::Arc;

use crate::clevr::Clevr;
use crate::vqa::Answered;

/// The answers of a model.
pub(super) struct Found {
    /// The answers, in the order of the questions.
    pub(super) answered: Vec<Answered>,
    pub(super) data: Arc<Clevr>,
    /// The folder of the data set.
    pub(super) folder: PathBuf,
    /// Whether the run was stopped early, so that answers are missing.
    pub(super) stopped: bool,
}
