//! The arguments of `mblm generate`.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{ArgGroup, Args, Command, ValueEnum};
use mblm::bytes::escape::unescape;
use mblm::generate::{TokenSet, Window};

use crate::command::GenerateMode;
use crate::options::{ComputeArgs, ModelArgs, up_to};

/// What the help ends with, apart from what modes add.
const EXAMPLES: &str = "\
Examples:
  mblm generate -m MODEL --prompt 'Once upon' --max-bytes 500 --temperature 0.8
  mblm generate -m MODEL --prompt-file start.bin --raw > continued.bin
  tail -c 400 log.txt | mblm generate -m MODEL --prompt-file - --top-p 0.9 --seed 7
  mblm generate -m MODEL --prompt-file book.txt --window slide -n 10000
  mblm generate -m MODEL --prompt 'Q: ' --only printable --stop '\\n' --num-samples 5 --json
  mblm generate -m MODEL --prompt-file book.txt -n 0 --save-state book.state
  mblm generate -m MODEL --load-state book.state --prompt 'The end. ' -n 200
  mblm generate -m MODEL --interactive";
const SYNTAX: &str = "\
BYTES are characters and ranges (a-z0-9 \\n), TEXT of --stop is text; both know the escapes \\n \\t \\r \\0 \\xHH and \\\\, and
\\- in BYTES is a hyphen. A seed gives the same samples whatever their number: sample 3 is also what
--first-sample 3 gives alone.";

/// All arguments, those of `modes` before the ones that say how and in which form.
pub(crate) fn arguments<'a>(command: Command, modes: impl Iterator<Item = &'a dyn GenerateMode>) -> Command {
    let mut command = GenerateArgs::augment_args(command);
    let about = command.get_about().cloned().unwrap_or_default(); // the derive also sets this
    for (place, name) in ["device", "precision", "json"].into_iter().enumerate() {
        command = command.mut_arg(name, |arg| arg.display_order(LAST + place));
    }
    let (mut examples, mut notes) = (EXAMPLES.to_string(), SYNTAX.to_string());
    for mode in modes {
        command = mode.arguments(command);
        examples += &format!("\n  {}", mode.example());
        notes += &format!("\n\n{}", mode.help());
    }
    command.about(about).after_help(format!("{examples}\n\n{notes}"))
}

/// The first place, in the help, of the arguments that stand last, before those of every command.
const LAST: usize = 800;

/// Generate bytes after a prompt
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("source").args(["prompt", "prompt_file"]))]
pub struct GenerateArgs {
    /// The model.
    #[command(flatten)]
    pub model: ModelArgs,

    /// Text to continue [default: nothing]
    #[arg(long, value_name = "TEXT")]
    pub prompt: Option<OsString>,

    /// File of bytes to continue; - reads stdin
    #[arg(long, value_name = "FILE")]
    pub prompt_file: Option<PathBuf>,

    /// What to do where prompt and continuation are longer than the model's context
    #[arg(long, value_enum, default_value = "error")]
    pub window: WindowArg,

    /// Write the prompt of --prompt-file before the continuation, as that of --prompt is
    #[arg(long, conflicts_with_all = ["raw", "json", "out", "interactive"])]
    pub echo: bool,

    /// Begin where --save-state ended, with what had been read and written there before the prompt
    #[arg(long, value_name = "FILE")]
    pub load_state: Option<PathBuf>,

    /// Save the model's state after everything that was written, so that --load-state can go on from there
    #[arg(long, value_name = "FILE", conflicts_with = "interactive")]
    pub save_state: Option<PathBuf>,

    /// Bytes to generate [default: as many as the model's context leaves after the prompt; 200 with --window crop and for
    /// each answer with --interactive; no end with --window slide]
    #[arg(short = 'n', long, value_name = "N")]
    pub max_bytes: Option<usize>,

    /// How bytes are chosen.
    #[command(flatten)]
    pub sampling: SamplingArgs,

    /// End before this text is written; may be given several times
    #[arg(long, value_name = "TEXT", value_parser = stop_text)]
    pub stop: Vec<Vec<u8>>,

    /// End at this id, a byte or a special one above 255, which may then also be chosen; may be given several times
    #[arg(long, value_name = "ID")]
    pub stop_id: Vec<u32>,

    /// Write also the stop text, or the byte, that ended the sample
    #[arg(long)]
    pub keep_stop: bool,

    /// Seed of the draws [default: from the clock]
    #[arg(long)]
    pub seed: Option<u64>,

    /// Samples to generate together after one reading of the prompt, each under a line `== sample I`, or in a
    /// file of its own
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = up_to(1024))]
    pub num_samples: usize,

    /// The number of the first sample
    #[arg(long, value_name = "I", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    pub first_sample: u64,

    /// Write bytes as they are, without the prompt, also where they are no UTF-8
    #[arg(long)]
    pub raw: bool,

    /// Write the bytes of each sample, as with --raw, to a file sample_I in this folder
    #[arg(long, value_name = "DIR", conflicts_with = "json")]
    pub out: Option<PathBuf>,

    /// Replace files that are there: samples, images, the state of --save-state
    #[arg(long)]
    pub force: bool,

    /// Read line after line and answer each; all lines and answers stay in the context
    #[arg(long, conflicts_with_all = ["prompt_file", "raw", "json", "out", "num_samples", "first_sample"])]
    pub interactive: bool,

    /// Where and how precisely to compute.
    #[command(flatten)]
    pub compute: ComputeArgs,

    /// Print prompt, samples and speed as JSON instead of streaming
    #[arg(long, conflicts_with = "raw")]
    pub json: bool,
}

/// What to do where prompt and continuation are longer than the model's context.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum WindowArg {
    /// Refuse; a model without fixed positions goes on beyond its context with -n
    Error,
    /// Read only the last bytes of the prompt, so that the continuation (200 bytes without -n) fits; costs least
    Crop,
    /// Whenever the context is full, read its last half anew: goes on for ever, until Ctrl-C without -n; costs one more pass
    /// over half a context for each half that is generated
    Slide,
}

impl From<WindowArg> for Window {
    fn from(window: WindowArg) -> Self {
        match window {
            WindowArg::Error => Self::Whole,
            WindowArg::Crop => Self::Crop,
            WindowArg::Slide => Self::Slide,
        }
    }
}

/// How the next byte is chosen.
#[derive(Debug, Args)]
pub struct SamplingArgs {
    /// Divides the logits: below 1 plays safe, 0 always takes the likeliest byte
    #[arg(long, value_name = "T", default_value_t = 1.0)]
    pub temperature: f64,

    /// Choose among the K likeliest bytes only
    #[arg(long, value_name = "K")]
    pub top_k: Option<usize>,

    /// Choose among the likeliest bytes that together have this probability
    #[arg(long, value_name = "P")]
    pub top_p: Option<f64>,

    /// Choose among bytes with at least this share of the likeliest byte's probability
    #[arg(long, value_name = "P")]
    pub min_p: Option<f64>,

    /// Drop this share of the least likely bytes, as the Python package does; 1 always takes the likeliest
    #[arg(long, value_name = "T", conflicts_with = "top_k")]
    pub filter_thres: Option<f64>,

    /// Make bytes among the last ones less likely, by this factor above 1
    #[arg(long, value_name = "R")]
    pub repetition_penalty: Option<f64>,

    /// How many of the last bytes count as repeated
    #[arg(long, value_name = "N", default_value_t = 64, requires = "repetition_penalty")]
    pub repetition_window: usize,

    /// Write only these: printable (ASCII, newline, tab), ascii, utf8 (valid UTF-8, no character cut), or a list such as 'a-z \n'
    #[arg(long, value_name = "BYTES", value_parser = Only::parse)]
    pub only: Option<Only>,

    /// Never write these: a list such as '0-9\x00'
    #[arg(long, value_name = "BYTES", value_parser = TokenSet::from_characters)]
    pub forbid: Option<TokenSet>,
}

/// What `--only` allows.
#[derive(Clone, Debug)]
pub enum Only {
    /// What keeps the stream valid UTF-8.
    Utf8,
    /// Bytes of a set.
    Bytes(TokenSet),
}

impl Only {
    fn parse(text: &str) -> mblm::Result<Self> {
        Ok(match text {
            "utf8" => Self::Utf8,
            "printable" => Self::Bytes(TokenSet::printable()),
            "ascii" => Self::Bytes(TokenSet::ascii()),
            list => Self::Bytes(TokenSet::from_characters(list)?),
        })
    }
}

/// A stop text, not empty.
fn stop_text(text: &str) -> mblm::Result<Vec<u8>> {
    match unescape(text)? {
        bytes if bytes.is_empty() => Err(mblm::Error::input("is empty: expected one byte or more")),
        bytes => Ok(bytes),
    }
}
