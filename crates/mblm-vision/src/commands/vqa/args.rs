//! Arguments of `mblm vqa eval`.

use std::path::PathBuf;

use clap::Args;

use mblm_app::options::{ComputeArgs, ModelArgs, SplitArg, at_least_one};

/// Measure how often a model answers questions about images rightly, by type of question
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  mblm vqa eval -m runs/clevr_1700000000 --data CLEVR_v1.0
  mblm vqa eval -m RUN --limit 1000 --prior --json
  mblm vqa eval -m MODEL --config RUN/config.yaml --jsonl answers.jsonl --contact-sheet wrong.png

Two answers are counted: constrained, the best among the answers there are, and free, what the model writes by itself until
it ends the answer. With --prior a third column says how far one comes without images: with the answer that is most
frequent in the training split for the same template of questions.")]
pub(crate) struct VqaEvalArgs {
    #[command(flatten)]
    pub(crate) model: ModelArgs,

    /// Folder of the data set [default: the configuration's io.dataset_dir]
    #[arg(long, value_name = "CLEVR")]
    pub(crate) data: Option<PathBuf>,

    /// Configuration with the data set's options [default: the config.yaml of the run that the
    /// model is in]
    #[arg(short, long, value_name = "YAML")]
    pub(crate) config: Option<PathBuf>,

    /// The split of the data set; answers to test questions are not published
    #[arg(long, value_enum, default_value = "validation")]
    pub(crate) split: SplitArg,

    /// Ask the first N questions only
    #[arg(long, value_name = "N", value_parser = at_least_one())]
    pub(crate) limit: Option<usize>,

    /// Questions asked at once
    #[arg(long, value_name = "N", default_value = "8", value_parser = at_least_one())]
    pub(crate) batch_size: usize,

    /// Also count the answers most frequent in training for each template of questions
    #[arg(long)]
    pub(crate) prior: bool,

    /// Write a JSON object for every question to this file, in the order of the questions
    #[arg(long, value_name = "FILE")]
    pub(crate) jsonl: Option<PathBuf>,

    /// Draw the first wrong constrained answers with their images to this PNG file
    #[arg(long, value_name = "FILE.png")]
    pub(crate) contact_sheet: Option<PathBuf>,

    /// Replace files of those names that are there
    #[arg(long)]
    pub(crate) force: bool,

    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,

    #[command(flatten)]
    pub(crate) compute: ComputeArgs,
}
