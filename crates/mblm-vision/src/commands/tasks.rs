//! The commands' behavior for the data sets of images.

use mblm_app::command::{CheckHelp, NextStep, TaskCommands};

/// The name of the data set of questions about images.
pub(super) const CLEVR: &str = "clevr";

/// The name of the data set of images.
pub(super) const IMAGES: &str = "pictures";

/// The behavior for `clevr`.
pub(super) struct Clevr;

impl TaskCommands for Clevr {
    fn dataset(&self) -> &str {
        CLEVR
    }

    fn next_step(&self) -> NextStep {
        NextStep::new("vqa eval", " --prior")
    }

    fn check_help(&self) -> Option<CheckHelp> {
        Some(CheckHelp::new(
            "mblm data check --data CLEVR_v1.0 --json",
            "\
For clevr, every question is read, and every image is decoded and prepared by the configuration's options. Missing, truncated
and damaged images, unknown answers and samples longer than input_seq_len are listed with file and question.",
        ))
    }
}

/// The behavior for `pictures`.
pub(super) struct ImageFolder;

impl TaskCommands for ImageFolder {
    fn dataset(&self) -> &str {
        IMAGES
    }

    fn next_step(&self) -> NextStep {
        NextStep::new("generate", " --pictures DIR")
    }

    // pixels are not readable as text
    fn is_text(&self) -> bool {
        false
    }
}
