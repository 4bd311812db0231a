//! Options of `mblm generate` for images.

use std::path::PathBuf;

use clap::Args;

/// The folder of the images and the configuration of their form.
#[derive(Debug, Args)]
pub(super) struct ImageArgs {
    /// Write each sample as an image to this folder, for models of data set pictures: pixels to
    /// picture_I.png, JPEG files to picture_I.jpg, pixels of an incomplete image to
    /// picture_I.bytes
    #[arg(long, value_name = "DIR", conflicts_with_all = NOT_OF_IMAGES)]
    pub(super) pictures: Option<PathBuf>,

    /// Configuration with the image options for --pictures [default: the config.yaml of the model's
    /// run]
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
