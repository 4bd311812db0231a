//! The arguments of `mblm data info`.

use std::path::PathBuf;

use clap::Args;

/// Show the files, bytes, kinds of content and splits of a file or folder
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  mblm data info book.txt
  mblm data info corpus/ --json

The kind of a file is detected from its first bytes, not from its name.")]
pub(crate) struct InfoArgs {
    /// File or folder to read
    pub(crate) path: PathBuf,

    /// Print the result as JSON on stdout
    #[arg(long)]
    pub(crate) json: bool,
}
