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
    #[arg(long, value_name = "K", default_value_t = 10, value_parser = up_to(MAX_QUESTIONS as u64))]
    pub(crate) questions_per_image: usize,

    /// Seed of scenes and questions
    #[arg(long, default_value_t = 0)]
    pub(crate) seed: u64,

    /// Images of 120x80 pixels rather than 480x320, of the same scenes with the same questions
    #[arg(long)]
    pub(crate) small: bool,

    /// The most objects of a scene, which has at least 3; another number gives other scenes
    #[arg(long, value_name = "N", default_value_t = MAX_OBJECTS, value_parser = objects())]
    pub(crate) max_objects: usize,

    /// The most relations, such as `left of`, that lead to what a question asks about; 0 describes
    /// objects by their own attributes
    #[arg(long, value_name = "N", default_value_t = MAX_RELATIONS, value_parser = relations())]
    pub(crate) max_relations: usize,

    /// Replace a CLEVR data set that is there, once the new one is complete
    #[arg(long)]
    pub(crate) force: bool,

    /// Print what was made as JSON on stdout
    #[arg(long)]
    pub(crate) json: bool,
}

fn relations() -> RangedU64ValueParser<usize> {
    RangedU64ValueParser::new().range(0..=MAX_RELATIONS as u64)
}

fn objects() -> RangedU64ValueParser<usize> {
    RangedU64ValueParser::new().range(MIN_OBJECTS as u64..=MAX_OBJECTS as u64)
}
