//! What the commands say and do about the data sets of images.

use super::check::ClevrCheck;
use crate::command::{DataCheck, NextStep, TaskCommands};

/// The data set of questions about images.
pub(super) const CLEVR: &str = "clevr";

/// The data set of images.
pub(super) const PICTURES: &str = "pictures";

/// Of `clevr`.
pub(super) struct Clevr;

impl TaskCommands for Clevr {
    fn dataset(&self) -> &str {
        CLEVR
    }

    fn next_step(&self) -> NextStep {
        NextStep::new("vqa eval", " --prior")
    }

    fn check(&self) -> Option<&dyn DataCheck> {
        Some(&ClevrCheck)
    }
}

/// Of `pictures`.
pub(super) struct Pictures;

impl TaskCommands for Pictures {
    fn dataset(&self) -> &str {
        PICTURES
    }

    fn next_step(&self) -> NextStep {
        NextStep::new("generate", " --pictures DIR")
    }

    // pixels say nothing as text
    fn is_text(&self) -> bool {
        false
    }
}
