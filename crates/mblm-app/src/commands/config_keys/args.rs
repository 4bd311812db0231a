//! The arguments of `mblm config schema` and `mblm config keys`.

use clap::Args;

/// Print the JSON schema of configurations, for editors
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  mblm config schema > mblm.schema.json

Editors with a YAML language server check and complete a configuration that begins with
`# yaml-language-server: $schema=mblm.schema.json`.")]
pub(crate) struct SchemaArgs {}

/// Show every key of a configuration with its meaning, type and default
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  mblm config keys
  mblm config keys warmup
  mblm config keys train.precision")]
pub(crate) struct KeysArgs {
    /// Show only keys that contain this text
    pub(crate) key: Option<String>,

    /// Print Markdown, as in the guide
    #[arg(long)]
    pub(crate) markdown: bool,

    /// Print the result as JSON on stdout
    #[arg(long, conflicts_with = "markdown")]
    pub(crate) json: bool,
}
