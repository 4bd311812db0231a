//! Arguments of `mblm vqa eval`.

use std::path::PathBuf;

use clap::Args;

use mblm_app::options::{ComputeArgs, ModelArgs, SplitArg, at_least_one};

/// Measure the share of questions about images that a model answers correctly, by question type
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  mblm vqa eval -m runs/clevr_1700000000 --data CLEVR_v1.0
  mblm vqa eval -m RUN --limit 1000 --prior --json
  mblm vqa eval -m MODEL --config RUN/config.yaml --jsonl answers.jsonl --contact-sheet wrong.png

Two kinds of answers are counted. The constrained answer is the best among all answers of the data set; the free answer is
the text that the model writes until it ends the answer. --prior adds a third column, the accuracy without images: it takes
the answer that is most frequent in the training split for the question's template.")]
pub(crate) struct VqaEvalArgs {
    #[command(flatten)]
    pub(crate) model: ModelArgs,

    /// Folder of the data set [default: the configuration's io.dataset_dir]
    #[arg(long, value_name = "CLEVR")]
    pub(crate) data: Option<PathBuf>,

    /// Configuration with the data set's options [default: the config.yaml of the model's run]
    #[arg(short, long, value_name = "YAML")]
    pub(crate) config: Option<PathBuf>,

    /// The split of the data set; answers to test questions are not published
    #[arg(long, value_enum, default_value = "validation")]
    pub(crate) split: SplitArg,

    /// Ask only the first N questions
    #[arg(long, value_name = "N", value_parser = at_least_one())]
    pub(crate) limit: Option<usize>,

    /// Number of questions to ask at once
    #[arg(long, value_name = "N", default_value = "8", value_parser = at_least_one())]
    pub(crate) batch_size: usize,

    /// Add the accuracy of always giving the answer most frequent in training for the question's
    /// template
    #[arg(long)]
    pub(crate) prior: bool,

    /// Write one line of JSON for each question to this file, in the order of the questions
    #[arg(long, value_name = "FILE")]
    pub(crate) jsonl: Option<PathBuf>,

    /// Draw the first wrong constrained answers with their images, at most 24, to this PNG file
    #[arg(long, value_name = "FILE.png")]
    pub(crate) contact_sheet: Option<PathBuf>,

    /// Replace the files of --jsonl and --contact-sheet if they exist
    #[arg(long)]
    pub(crate) force: bool,

    /// Print the result as JSON on stdout
    #[arg(long)]
    pub(crate) json: bool,

    #[command(flatten)]
    pub(crate) compute: ComputeArgs,
}
