//! Options of `mblm generate` for images.

use std::path::PathBuf;

use clap::Args;

/// Where images go, and what says how bytes are images.
#[derive(Debug, Args)]
pub(super) struct ImageArgs {
    /// Write each sample, of a model of data set pictures, to a file in this folder: pixels to
    /// picture_I.png, JPEG files to picture_I.jpg; pixels that are no whole image to
    /// picture_I.bytes
    #[arg(long, value_name = "DIR", conflicts_with_all = NOT_OF_IMAGES)]
    pub(super) pictures: Option<PathBuf>,

    /// Configuration that says what the bytes of --pictures are [default: the config.yaml of the
    /// run that the model is in]
    #[arg(short, long, value_name = "YAML", requires = "pictures")]
    pub(super) config: Option<PathBuf>,
}

/// Options that do not go with images: those that the configuration determines, and those of texts.
const NOT_OF_IMAGES: [&str; 14] = [
    "echo",
    "prompt",
    "prompt_file",
    "load_state",
    "save_state",
    "max_bytes",
    "only",
    "forbid",
    "stop",
    "stop_id",
    "keep_stop",
    "raw",
    "out",
    "interactive",
];
