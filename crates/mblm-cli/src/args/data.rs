//! `mblm data …` as it is typed.

use std::path::PathBuf;

use clap::{ArgGroup, Args, Subcommand, ValueEnum};
use mblm::data::Split;
use mblm::data::clevr_synth::{FEWEST_OBJECTS, MOST_OBJECTS, MOST_QUESTIONS, MOST_RELATIONS};

use super::{at_least_one, up_to};

#[derive(Debug, Args)]
pub(crate) struct DataArgs {
    #[command(subcommand)]
    pub(crate) command: DataCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum DataCommand {
    /// Read all of a data set and list everything that training would stumble over
    Check(CheckArgs),
    /// Make a synthetic CLEVR data set: pictures of simple objects, and questions about them
    ClevrSynth(ClevrSynthArgs),
}

#[derive(Debug, Args)]
#[command(group = ArgGroup::new("what").required(true).multiple(true).args(["config", "data"]))]
#[command(after_help = "\
Examples:
  mblm data check my.yaml
  mblm data check my.yaml --set io.dataset_args.resize_to_w=64 --split validation
  mblm data check --data CLEVR_v1.0 --json

Of clevr every question is read and every image decoded and prepared as the configuration says; missing, truncated and damaged
images, answers outside the map and samples longer than input_seq_len are listed with file and question. Of other data sets
the splits are opened and every sample is read. The exit code is 1 if anything is wrong.")]
pub(crate) struct CheckArgs {
    /// Configuration file (YAML) that names the data set
    pub(crate) config: Option<PathBuf>,

    /// Folder of the data set [default: the configuration's io.dataset_dir]; without a configuration it is one of clevr, whose
    /// samples may be of any length
    #[arg(long, value_name = "DIR")]
    pub(crate) data: Option<PathBuf>,

    /// Change a value of the configuration, such as params.input_seq_len=4096; may be given several times
    #[arg(long = "set", value_name = "KEY=VALUE", requires = "config")]
    pub(crate) overrides: Vec<String>,

    /// The split to look at
    #[arg(long, value_enum, default_value = "all")]
    pub(crate) split: CheckSplit,

    /// List the first N problems of a split; all are counted
    #[arg(long, value_name = "N", default_value = "20", value_parser = at_least_one())]
    pub(crate) limit: usize,

    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum CheckSplit {
    /// What models learn from
    Train,
    /// What chooses the best model
    Validation,
    /// What the best model is measured on
    Test,
    /// All that there are
    All,
}

impl CheckSplit {
    /// The splits that are meant.
    pub(crate) fn splits(self) -> &'static [Split] {
        match self {
            Self::Train => &[Split::Train],
            Self::Validation => &[Split::Validation],
            Self::Test => &[Split::Test],
            Self::All => &[Split::Train, Split::Validation, Split::Test],
        }
    }
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  mblm data clevr-synth clevr --images 10000 --seed 1
  mblm data clevr-synth clevr-small --images 2000 --small --max-objects 6
  mblm data clevr-synth clevr-easy --images 10000 --small --max-objects 3 --max-relations 0

OUT gets the folders images, questions and scenes in CLEVR's layout. It appears when all is done: a run that is stopped leaves
nothing. An image, its scene and its questions depend on the seed and the options alone, so the same command gives the same files
with any number of threads. Answers are balanced: what is asked, and how, does not tell the answer.")]
pub(crate) struct ClevrSynthArgs {
    /// The folder to make; an empty one may be there
    #[arg(value_name = "OUT")]
    pub(crate) out: PathBuf,

    /// Training images
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = up_to(1_000_000))]
    pub(crate) images: usize,

    /// Validation images [default: a tenth of the training images, at least one]
    #[arg(long, value_name = "N", value_parser = up_to(1_000_000))]
    pub(crate) val_images: Option<usize>,

    /// Different questions about each image
    #[arg(long, value_name = "K", default_value_t = 10, value_parser = up_to(MOST_QUESTIONS as u64))]
    pub(crate) questions_per_image: usize,

    /// Seed of scenes and questions
    #[arg(long, default_value_t = 0)]
    pub(crate) seed: u64,

    /// Pictures of 120x80 pixels rather than 480x320, of the same scenes with the same questions
    #[arg(long)]
    pub(crate) small: bool,

    /// The most objects of a scene, which has at least 3; another number gives other scenes
    #[arg(long, value_name = "N", default_value_t = MOST_OBJECTS, value_parser = objects())]
    pub(crate) max_objects: usize,

    /// The most relations, such as `left of`, that lead to what a question asks about; 0 describes objects by their own attributes
    #[arg(long, value_name = "N", default_value_t = MOST_RELATIONS, value_parser = relations())]
    pub(crate) max_relations: usize,

    /// Replace a CLEVR data set that is there, once the new one is complete
    #[arg(long)]
    pub(crate) force: bool,

    /// Print what was made as JSON on stdout
    #[arg(long)]
    pub(crate) json: bool,
}

fn relations() -> clap::builder::RangedU64ValueParser<usize> {
    clap::builder::RangedU64ValueParser::new().range(0..=MOST_RELATIONS as u64)
}

fn objects() -> clap::builder::RangedU64ValueParser<usize> {
    clap::builder::RangedU64ValueParser::new().range(FEWEST_OBJECTS as u64..=MOST_OBJECTS as u64)
}
