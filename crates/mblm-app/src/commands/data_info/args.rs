//! The arguments of `mblm data info`.

use std::path::PathBuf;

use clap::Args;

/// Show what a file or folder holds: files, bytes, kinds of content, splits
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  mblm data info book.txt
  mblm data info corpus/ --json

Kinds are told by the first bytes of each file, whatever its name.")]
pub(crate) struct InfoArgs {
    /// File or folder
    pub(crate) path: PathBuf,

    /// Print the result as JSON on stdout
    #[arg(long)]
    pub(crate) json: bool,
}
