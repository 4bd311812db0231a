//! Arguments of `mblm data clevr-synth`.

use std::path::PathBuf;

use crate::clevr_synth::{MAX_OBJECTS, MAX_QUESTIONS, MAX_RELATIONS, MIN_OBJECTS};
use clap::Args;
use clap::builder::RangedU64ValueParser;

use mblm_app::options::up_to;

/// Make a synthetic CLEVR data set: images of simple objects, and questions about them
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  mblm data clevr-synth clevr --images 10000 --seed 1
  mblm data clevr-synth clevr-small --images 2000 --small --max-objects 6
  mblm data clevr-synth clevr-easy --images 10000 --small --max-objects 3 --max-relations 0

OUT gets the folders images, questions and scenes in CLEVR's layout. OUT appears only when everything is written; a command
that is stopped leaves nothing. The images, scenes and questions depend only on the seed and the options: the same command
gives the same files with any number of threads. Answers are balanced, so that a question's text does not reveal the answer.")]
pub(crate) struct ClevrSynthArgs {
    /// Folder to write; it must not exist or be empty
    #[arg(value_name = "OUT")]
    pub(crate) out: PathBuf,

    /// Number of training images
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = up_to(1_000_000))]
    pub(crate) images: usize,

    /// Number of validation images [default: a tenth of the training images, at least one]
    #[arg(long, value_name = "N", value_parser = up_to(1_000_000))]
    pub(crate) val_images: Option<usize>,

    /// Number of different questions about each image
    #[arg(long, value_name = "K", default_value_t = 10, value_parser = up_to(MAX_QUESTIONS as u64))]
    pub(crate) questions_per_image: usize,

    /// Seed of scenes and questions
    #[arg(long, default_value_t = 0)]
    pub(crate) seed: u64,

    /// Draw images of 120x80 instead of 480x320 pixels, with the same scenes and questions
    #[arg(long)]
    pub(crate) small: bool,

    /// The largest number of objects in a scene, which has at least 3; another number gives other
    /// scenes
    #[arg(long, value_name = "N", default_value_t = MAX_OBJECTS, value_parser = objects())]
    pub(crate) max_objects: usize,

    /// The largest number of relations, such as `left of`, in a question; with 0, questions
    /// describe objects only by their own attributes
    #[arg(long, value_name = "N", default_value_t = MAX_RELATIONS, value_parser = relations())]
    pub(crate) max_relations: usize,

    /// Replace an existing CLEVR data set in OUT, once the new one is complete
    #[arg(long)]
    pub(crate) force: bool,

    /// Print the result as JSON on stdout
    #[arg(long)]
    pub(crate) json: bool,
}

fn relations() -> RangedU64ValueParser<usize> {
    RangedU64ValueParser::new().range(0..=MAX_RELATIONS as u64)
}

fn objects() -> RangedU64ValueParser<usize> {
    RangedU64ValueParser::new().range(MIN_OBJECTS as u64..=MAX_OBJECTS as u64)
}
