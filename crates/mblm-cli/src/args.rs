//! The command line as it is typed.

mod data;
mod vqa;

use std::path::PathBuf;

use clap::{ArgGroup, Args, Parser, Subcommand, ValueEnum};
use mblm::bytes::escape::unescape;
use mblm::config::{ByteSize, Precision};
use mblm::data::Split;
use mblm::generate::TokenSet;

use crate::plot::{Across, Unit};

pub(crate) use data::{CheckArgs, ClevrSynthArgs, DataArgs, DataCommand};
pub(crate) use vqa::{VqaArgs, VqaCommand, VqaEvalArgs};

/// Train, run and evaluate hierarchical language models over raw bytes.
#[derive(Debug, Parser)]
#[command(name = "mblm", version, about, propagate_version = true, max_term_width = 110)]
#[command(after_help = "\
Examples:
  mblm train --data book.txt --preset tiny
  mblm train configs/quickstart.yaml --set train.learning_rate=3e-4
  mblm generate -m runs/tiny_1700000000 --prompt 'It was' --max-bytes 200
  mblm eval -m runs/tiny_1700000000 book.txt

Exit codes: 0 done; 1 failed; 2 wrong usage or configuration; 3 the training loss was not finite; 130 and 143 ended by
SIGINT (Ctrl-C) and SIGTERM.")]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,

    /// Say more on stderr; repeat for still more
    #[arg(short, long, global = true, action = clap::ArgAction::Count, display_order = 900)]
    pub(crate) verbose: u8,

    /// Say nothing on stderr but errors
    #[arg(short, long, global = true, display_order = 901)]
    pub(crate) quiet: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Train a model from a configuration file, or on a file of yours with a preset
    Train(TrainArgs),
    /// Show what a training step takes, and the longest context that fits
    Plan(PlanArgs),
    /// Generate bytes after a prompt
    Generate(Box<GenerateArgs>),
    /// Say how surprising each byte of a file or stream is
    Score(ScoreArgs),
    /// Measure how well a model predicts files or a data set, in bits per byte
    Eval(EvalArgs),
    /// Make data sets, and check whether all of one can be read
    Data(DataArgs),
    /// Ask a model questions about pictures (data set clevr)
    Vqa(VqaArgs),
    /// Measure how well a model finds values hidden in text, by context length and depth
    Needle(NeedleArgs),
    /// Show what a configuration, model folder or checkpoint holds
    Inspect(InspectArgs),
    /// Convert between the Python package's checkpoints and model folders
    Convert(ConvertArgs),
    /// Draw the loss curves and learning rates of runs
    Plot(PlotArgs),
    /// Check that this machine reproduces the numbers of fixture files
    Verify(VerifyArgs),
    /// Show what this machine has, and check that the program computes rightly on it
    Doctor(DoctorArgs),
    /// Measure how fast this machine trains and generates
    Bench(BenchArgs),
    /// Print a completion script for a shell
    Completions(CompletionsArgs),
}

/// The device to compute on.
#[derive(Debug, Args)]
pub(crate) struct DeviceArgs {
    /// Where to compute: auto (a GPU if there is one), cpu, cuda or cuda:N
    #[arg(long, default_value = "auto", value_name = "DEVICE")]
    pub(crate) device: String,
}

/// The device to use a model on, and how precisely.
#[derive(Debug, Args)]
pub(crate) struct ComputeArgs {
    #[command(flatten)]
    pub(crate) device: DeviceArgs,

    /// How matrix products are computed; on the CPU bf16 rounds the weights alone, which are then read faster
    #[arg(long, value_enum, default_value = "auto")]
    pub(crate) precision: PrecisionArg,
}

#[derive(Debug, Args)]
#[command(group = ArgGroup::new("what").required(true).multiple(true).args(["config", "data", "resume"]))]
#[command(after_help = "\
Examples:
  mblm train configs/quickstart.yaml
  mblm train --data book.txt --preset small --out runs
  mblm train my.yaml --set train.learning_rate=3e-4 --set params.seq_lens.0=512 --dry-run
  mblm train --resume runs/quickstart_1700000000
  mblm train my.yaml --resume auto

The run's folder holds the configuration (config.yaml), the best models (models/), states to go on from (states/), and logs.
A first Ctrl-C ends the run after the current batch with its state saved; a second one ends it at once. However a run
ended, --resume goes on as if it had not.")]
pub(crate) struct TrainArgs {
    /// Configuration file (YAML)
    pub(crate) config: Option<PathBuf>,

    /// File or folder of anything to train on, instead of a configuration
    #[arg(long, value_name = "PATH", conflicts_with = "config")]
    pub(crate) data: Option<PathBuf>,

    /// Go on with a run: its folder (or one of its states), or `auto`, the newest run of this name, if there is one
    #[arg(long, value_name = "RUN")]
    pub(crate) resume: Option<PathBuf>,

    /// Size of the model for --data
    #[arg(
        long,
        value_enum,
        default_value = "tiny",
        requires = "data",
        conflicts_with = "config"
    )]
    pub(crate) preset: PresetArg,

    /// Change a value of the configuration, such as train.batch_size=8; may be given several times
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub(crate) overrides: Vec<String>,

    /// Folder for the run's folder [default: the configuration's io.output_dir, else runs]
    #[arg(long, value_name = "DIR")]
    pub(crate) out: Option<PathBuf>,

    /// Seed of weights, shuffling and dropout [default: the configuration's train.seed]
    #[arg(long)]
    pub(crate) seed: Option<u64>,

    /// How matrix products of weights are computed [default: the configuration's train.precision, else auto]
    #[arg(long, value_enum)]
    pub(crate) precision: Option<PrecisionArg>,

    #[command(flatten)]
    pub(crate) device: DeviceArgs,

    /// The most memory that a step may take, such as 40GiB: what is computed at once is chosen so that it fits [default: the
    /// configuration's train.memory, else what a GPU has free]
    #[arg(long, value_name = "BYTES")]
    pub(crate) memory: Option<ByteSize>,

    /// Bytes of the sample that a finished run prints
    #[arg(long, value_name = "N", default_value_t = 300)]
    pub(crate) sample_bytes: usize,

    /// Print parameters per stage, bytes per step and estimated memory, and train nothing
    #[arg(long)]
    pub(crate) dry_run: bool,

    /// Print the result as JSON on stdout
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  mblm plan configs/quickstart.yaml --memory 2GiB
  mblm plan my.yaml --set params.input_seq_len=104857600 --memory 40GiB --gpu

Memory is that of the training step: on a GPU with driver and libraries, on the CPU without the program itself.")]
pub(crate) struct PlanArgs {
    /// Configuration file (YAML)
    pub(crate) config: PathBuf,

    /// Change a value of the configuration, such as train.batch_size=1; may be given several times
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub(crate) overrides: Vec<String>,

    /// The most memory that a step may take, such as 40GiB [default: the configuration's train.memory, else what the GPU has
    /// free or the machine available]
    #[arg(long, value_name = "BYTES")]
    pub(crate) memory: Option<ByteSize>,

    /// Plan for a GPU that is not here
    #[arg(long, requires = "memory", conflicts_with = "device")]
    pub(crate) gpu: bool,

    #[command(flatten)]
    pub(crate) device: DeviceArgs,

    /// Print the result as JSON on stdout
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum PresetArg {
    /// 1.2 M parameters, 512 bytes of context: minutes on a laptop
    Tiny,
    /// 5.5 M parameters, 2048 bytes of context: hours on a laptop
    Small,
}

/// The model to use.
#[derive(Debug, Args)]
pub(crate) struct ModelArgs {
    /// Model folder, or a weights file with its config.json beside it
    #[arg(short, long, value_name = "PATH")]
    pub(crate) model: PathBuf,
}

#[derive(Debug, Args)]
#[command(group = ArgGroup::new("source").args(["prompt", "prompt_file"]))]
#[command(after_help = "\
Examples:
  mblm generate -m MODEL --prompt 'Once upon' --max-bytes 500 --temperature 0.8
  mblm generate -m MODEL --prompt-file start.bin --raw > continued.bin
  tail -c 400 log.txt | mblm generate -m MODEL --prompt-file - --top-p 0.9 --seed 7
  mblm generate -m MODEL --prompt 'Q: ' --only printable --stop '\\n' --num-samples 5 --json
  mblm generate -m MODEL --prompt-file book.txt -n 0 --save-state book.state
  mblm generate -m MODEL --load-state book.state --prompt 'The end. ' -n 200
  mblm generate -m MODEL --interactive
  mblm generate -m RUN --pictures drawn --num-samples 8 --temperature 0.9

BYTES are characters and ranges (a-z0-9 \\n), TEXT of --stop is text; both know the escapes \\n \\t \\r \\0 \\xHH and \\\\, and
\\- in BYTES is a hyphen. A seed gives the same samples whatever their number: sample 3 is also what
--first-sample 3 gives alone.

--pictures is for models of data set pictures. What such a model draws need not be a picture: pixels may end early, JPEG files
may be damaged. Each that does not decode is named, with the reason; all are written.")]
pub(crate) struct GenerateArgs {
    #[command(flatten)]
    pub(crate) model: ModelArgs,

    /// Text to continue [default: nothing]
    #[arg(long, value_name = "TEXT")]
    pub(crate) prompt: Option<String>,

    /// File of bytes to continue; - reads stdin
    #[arg(long, value_name = "FILE")]
    pub(crate) prompt_file: Option<PathBuf>,

    /// Begin where --save-state ended, with what had been read and written there before the prompt
    #[arg(long, value_name = "FILE")]
    pub(crate) load_state: Option<PathBuf>,

    /// Save the model's state after everything that was written, so that --load-state can go on from there
    #[arg(long, value_name = "FILE", conflicts_with = "interactive")]
    pub(crate) save_state: Option<PathBuf>,

    /// Bytes to generate [default: as many as the model's context leaves after the prompt; 200 for each answer with
    /// --interactive]
    #[arg(short = 'n', long, value_name = "N")]
    pub(crate) max_bytes: Option<usize>,

    #[command(flatten)]
    pub(crate) sampling: SamplingArgs,

    /// End before this text is written; may be given several times
    #[arg(long, value_name = "TEXT", value_parser = stop_text)]
    pub(crate) stop: Vec<Vec<u8>>,

    /// End at this id, a byte or a special one above 255, which may then also be chosen; may be given several times
    #[arg(long, value_name = "ID")]
    pub(crate) stop_id: Vec<u32>,

    /// Write also the stop text, or the byte, that ended the sample
    #[arg(long)]
    pub(crate) keep_stop: bool,

    /// Seed of the draws [default: from the clock]
    #[arg(long)]
    pub(crate) seed: Option<u64>,

    /// Samples to generate together after one reading of the prompt, each under a line `== sample I`, or in a
    /// file of its own
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = up_to(1024))]
    pub(crate) num_samples: usize,

    /// The number of the first sample
    #[arg(long, value_name = "I", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) first_sample: u64,

    /// Write bytes as they are, without the prompt, also where they are no UTF-8
    #[arg(long)]
    pub(crate) raw: bool,

    /// Write the bytes of each sample, as with --raw, to a file sample_I in this folder
    #[arg(long, value_name = "DIR", conflicts_with = "json")]
    pub(crate) out: Option<PathBuf>,

    /// Read line after line and answer each; all lines and answers stay in the context
    #[arg(long, conflicts_with_all = ["prompt_file", "raw", "json", "out", "num_samples", "first_sample"])]
    pub(crate) interactive: bool,

    /// Write each sample, of a model of data set pictures, to a file in this folder: pixels to picture_I.png, JPEG files to
    /// picture_I.jpg; pixels that are no whole picture to picture_I.bytes
    #[arg(long, value_name = "DIR", conflicts_with_all = NOT_OF_PICTURES)]
    pub(crate) pictures: Option<PathBuf>,

    /// Configuration that says what the bytes of --pictures are [default: the config.yaml of the run that the model is in]
    #[arg(short, long, value_name = "YAML", requires = "pictures")]
    pub(crate) config: Option<PathBuf>,

    /// Replace pictures of those numbers that are there
    #[arg(long, requires = "pictures")]
    pub(crate) force: bool,

    #[command(flatten)]
    pub(crate) compute: ComputeArgs,

    /// Print prompt, samples and speed as JSON instead of streaming
    #[arg(long, conflicts_with = "raw")]
    pub(crate) json: bool,
}

/// What the configuration says of pictures, or what texts alone have.
const NOT_OF_PICTURES: [&str; 13] = [
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

/// How the next byte is chosen.
#[derive(Debug, Args)]
pub(crate) struct SamplingArgs {
    /// Divides the logits: below 1 plays safe, 0 always takes the likeliest byte
    #[arg(long, value_name = "T", default_value_t = 1.0)]
    pub(crate) temperature: f64,

    /// Choose among the K likeliest bytes only
    #[arg(long, value_name = "K")]
    pub(crate) top_k: Option<usize>,

    /// Choose among the likeliest bytes that together have this probability
    #[arg(long, value_name = "P")]
    pub(crate) top_p: Option<f64>,

    /// Choose among bytes with at least this share of the likeliest byte's probability
    #[arg(long, value_name = "P")]
    pub(crate) min_p: Option<f64>,

    /// Drop this share of the least likely bytes, as the Python package does; 1 always takes the likeliest
    #[arg(long, value_name = "T", conflicts_with = "top_k")]
    pub(crate) filter_thres: Option<f64>,

    /// Make bytes among the last ones less likely, by this factor above 1
    #[arg(long, value_name = "R")]
    pub(crate) repetition_penalty: Option<f64>,

    /// How many of the last bytes count as repeated
    #[arg(long, value_name = "N", default_value_t = 64, requires = "repetition_penalty")]
    pub(crate) repetition_window: usize,

    /// Write only these: printable (ASCII, newline, tab), ascii, utf8 (valid UTF-8, no character cut), or a list such as 'a-z \n'
    #[arg(long, value_name = "BYTES", value_parser = Only::parse)]
    pub(crate) only: Option<Only>,

    /// Never write these: a list such as '0-9\x00'
    #[arg(long, value_name = "BYTES", value_parser = TokenSet::from_characters)]
    pub(crate) forbid: Option<TokenSet>,
}

/// What `--only` allows.
#[derive(Clone, Debug)]
pub(crate) enum Only {
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

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  mblm score -m MODEL book.txt
  mblm score -m MODEL --jsonl access.log > surprisal.jsonl
  mblm score -m MODEL --by-position book.txt
  tail -f access.log | mblm score -m MODEL --jsonl

Every byte is predicted from all bytes before it, however many. mblm eval predicts from windows of the model's context.")]
pub(crate) struct ScoreArgs {
    #[command(flatten)]
    pub(crate) model: ModelArgs,

    /// File to score; - reads stdin
    #[arg(default_value = "-")]
    pub(crate) file: PathBuf,

    /// Print a JSON object for each byte, one a line: offset, byte, bits; the summary goes to stderr
    #[arg(long)]
    pub(crate) jsonl: bool,

    /// Print a table by position: the first byte, the second, then 2, 4, 8 of them and so on; does longer context help?
    #[arg(long)]
    pub(crate) by_position: bool,

    #[command(flatten)]
    pub(crate) compute: ComputeArgs,

    /// Print the summary as JSON on stdout
    #[arg(long, conflicts_with = "jsonl")]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
#[command(group = ArgGroup::new("what").required(true).multiple(true).args(["files", "config", "data"]))]
#[command(after_help = "\
Examples:
  mblm eval -m MODEL book.txt
  mblm eval -m MODEL --context 1024 --stride 256 --json logs/*.txt
  mblm eval -m RUN --config RUN/config.yaml --split test --by-position
  mblm eval -m MODEL --surprisal color book.txt | less -R
  head -c 5000 book.txt | mblm eval -m MODEL --surprisal jsonl -

Files are read as they are, whatever their size; .gz and .zst are unpacked only where a data set reads them (--data).
Results are on stdout. With --surprisal that has the bytes alone, and the table is on stderr.")]
pub(crate) struct EvalArgs {
    #[command(flatten)]
    pub(crate) model: ModelArgs,

    /// Files to score; - reads stdin
    #[arg(conflicts_with_all = ["config", "data"])]
    pub(crate) files: Vec<PathBuf>,

    /// Score the data set of this configuration, with its options, sample length and seed
    #[arg(short, long, value_name = "YAML")]
    pub(crate) config: Option<PathBuf>,

    /// Score this file or folder as a data set [default: the configuration's io.dataset_dir]
    #[arg(long, value_name = "PATH")]
    pub(crate) data: Option<PathBuf>,

    /// The kind of data set: bytes, clevr, needle, pg19, pg19masked, pictures [default: the configuration's io.dataset_id, else bytes]
    #[arg(long, value_name = "KIND", conflicts_with = "files")]
    pub(crate) dataset: Option<String>,

    /// The split of the data set [default: validation]
    #[arg(long, value_enum, conflicts_with = "files")]
    pub(crate) split: Option<SplitArg>,

    /// Score the first N samples of the split only
    #[arg(long, value_name = "N", conflicts_with = "files", value_parser = at_least_one())]
    pub(crate) max_samples: Option<usize>,

    /// Bytes of context: the length of windows and samples [default: the configuration's params.input_seq_len, else the
    /// model's context]
    #[arg(long, value_name = "BYTES", value_parser = at_least_one())]
    pub(crate) context: Option<usize>,

    /// Begin a window of a file every BYTES bytes and count only its last BYTES, which have at least context - BYTES bytes
    /// before them. Smaller is more exact and costs context / BYTES times as much [default: the context]
    #[arg(long, value_name = "BYTES", value_parser = at_least_one(), conflicts_with_all = ["config", "data"])]
    pub(crate) stride: Option<usize>,

    /// Show the mean by position in the context: at 0, 1, 2-3, 4-7, ..., or in N equal parts. Does longer context help?
    #[arg(long, value_name = "N", num_args = 0..=1, require_equals = true, value_parser = at_least_one())]
    pub(crate) by_position: Option<Option<usize>>,

    /// Print every byte with its surprisal -log2 p, in bits, on stdout
    #[arg(long, value_enum, value_name = "HOW")]
    pub(crate) surprisal: Option<SurprisalArg>,

    /// Windows or samples scored at once
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = at_least_one())]
    pub(crate) batch_size: usize,

    #[command(flatten)]
    pub(crate) compute: ComputeArgs,

    /// Print the result as JSON on stdout
    #[arg(long, conflicts_with = "surprisal")]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  mblm needle -m runs/needle_1700000000
  mblm needle -m MODEL --data book.txt --lengths 1KiB,16KiB,1MiB --depths 0,50,100 --samples 50
  mblm needle -m RUN --option needles=1 --option queries=1 --plot found.svg --json

Each sample is text with needles in it, such as [key qxv: 4821], and a query at its end, [key qxv? 4821], up to whose value it is
read; the value's bytes are then the likeliest, one after the other. The needle asked for last is at the depth. Options are those
of data set needle (io.dataset_args): by default those that the run was trained with.")]
pub(crate) struct NeedleArgs {
    #[command(flatten)]
    pub(crate) model: ModelArgs,

    /// Configuration whose data set says the options and the text [default: that of the run, where MODEL is a run's folder]
    #[arg(short, long, value_name = "YAML")]
    pub(crate) config: Option<PathBuf>,

    /// File or folder of text to hide needles in [default: the configuration's io.dataset_dir]
    #[arg(long, value_name = "PATH")]
    pub(crate) data: Option<PathBuf>,

    /// Take this split of the text [default: all of --data; validation without it]
    #[arg(long, value_enum)]
    pub(crate) split: Option<SplitArg>,

    /// Bytes of the samples, such as 1KiB,4KiB,1MiB [default: powers of two from 256 bytes up to the model's context]
    #[arg(long, value_name = "BYTES", value_delimiter = ',')]
    pub(crate) lengths: Vec<ByteSize>,

    /// Percent of the text before the needle, but for up to 15 bytes, so that it has every place within a patch
    #[arg(long, value_name = "PERCENT", value_delimiter = ',', default_value = "0,25,50,75,100", value_parser = percent)]
    pub(crate) depths: Vec<f64>,

    /// Samples of each length and depth
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) samples: u64,

    /// Seed of texts, keys and values
    #[arg(long, default_value_t = 0)]
    pub(crate) seed: u64,

    /// An option of data set needle, such as needles=4; may be given several times
    #[arg(long = "option", value_name = "KEY=VALUE")]
    pub(crate) options: Vec<String>,

    /// Draw the values found as a heat map, .svg or .png
    #[arg(long, value_name = "FILE")]
    pub(crate) plot: Option<PathBuf>,

    /// Samples read side by side
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u64).range(1..=1024))]
    pub(crate) batch_size: u64,

    #[command(flatten)]
    pub(crate) compute: ComputeArgs,

    /// Print the result as JSON on stdout
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum SplitArg {
    /// What models learn from
    Train,
    /// What chooses the best model
    Validation,
    /// What the best model is measured on
    Test,
}

impl From<SplitArg> for Split {
    fn from(split: SplitArg) -> Self {
        match split {
            SplitArg::Train => Self::Train,
            SplitArg::Validation => Self::Validation,
            SplitArg::Test => Self::Test,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum SurprisalArg {
    /// One JSON object a byte: offset, byte, bits, position in the context, file (or split)
    Jsonl,
    /// The text, each character with a background from likely (none) to surprising (red); \x.. for other bytes
    Color,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  mblm inspect configs/quickstart.yaml
  mblm inspect runs/tiny_1700000000
  mblm inspect checkpoint.pth --tensors")]
pub(crate) struct InspectArgs {
    /// Configuration (YAML), model folder, .safetensors or .pth file
    pub(crate) path: PathBuf,

    /// List every tensor
    #[arg(long)]
    pub(crate) tensors: bool,

    /// Print the result as JSON on stdout
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  mblm convert checkpoint.pth my-model --config run/config.yaml
  mblm convert my-model checkpoint.pth")]
pub(crate) struct ConvertArgs {
    /// A .pth file of the Python package (training checkpoint or bare state dict), or a model folder
    pub(crate) from: PathBuf,

    /// The model folder to write, or a .pth file if the name ends in .pth
    pub(crate) to: PathBuf,

    /// The YAML of the run that wrote the .pth file: it says what the architecture is
    #[arg(short, long, value_name = "YAML")]
    pub(crate) config: Option<PathBuf>,

    /// Overwrite what is there
    #[arg(long)]
    pub(crate) force: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  mblm plot runs/tiny_1700000000
  mblm plot runs/tiny_1700000000 -o losses.png --unit nats --log
  mblm plot runs/a runs/b old/loss.csv -o compared.svg --x time

Training losses are drawn light and, smoothed, strong; losses on held-out data as circles, on test data as a cross. A run may
still be going on. The loss.csv files of the Python package can be drawn as well.")]
pub(crate) struct PlotArgs {
    /// Folders of runs, or loss.csv files
    #[arg(required = true, value_name = "RUN")]
    pub(crate) runs: Vec<PathBuf>,

    /// The picture, .svg or .png [default: plot.svg in the run's folder; in this one for several runs]
    #[arg(short, long, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,

    /// What the curves run along
    #[arg(long, value_enum, default_value = "batches", value_name = "AXIS")]
    pub(crate) x: Across,

    /// Unit of the losses
    #[arg(long, value_enum, default_value = "bits")]
    pub(crate) unit: Unit,

    /// Give the losses a logarithmic axis
    #[arg(long)]
    pub(crate) log: bool,

    /// Print the picture's path and what it shows as JSON on stdout
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  mblm verify crates/mblm/tests/fixtures/*.safetensors

Errors are relative; those of losses (in nats) and of final weights are absolute. The place is that of the largest error.")]
pub(crate) struct VerifyArgs {
    /// Fixture files: safetensors with a model, its inputs and the numbers that a known-good run gave
    #[arg(required = true)]
    pub(crate) fixtures: Vec<PathBuf>,

    #[command(flatten)]
    pub(crate) device: DeviceArgs,

    /// Print the result as JSON on stdout
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  mblm bench
  mblm bench mamba2 --what train --seconds 30
  mblm bench --config my.yaml --batch-size 8 --json

Random weights and bytes. Speeds are medians with the smallest and the largest; kB are 1000 bytes. The limit is the speed of a
plain matrix product as wide as the model, measured in turns with the training steps; a step's products are those of weights,
forward and backward, attention and scans not counted. Peak memory is the whole program's, after training that of both.")]
pub(crate) struct BenchArgs {
    /// What to measure, all of width 256
    #[arg(value_enum, default_value = "transformer")]
    pub(crate) model: BenchModel,

    /// The model of a configuration file (YAML) instead
    #[arg(long, value_name = "FILE", conflicts_with = "model")]
    pub(crate) config: Option<PathBuf>,

    /// Training, generation or both
    #[arg(long, value_enum, default_value = "all")]
    pub(crate) what: BenchWhat,

    /// Samples of a training batch
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = at_least_one())]
    pub(crate) batch_size: usize,

    /// Bytes of a sample; of prompt and continuation together [default: the model's context]
    #[arg(long, value_name = "BYTES", value_parser = at_least_two())]
    pub(crate) context: Option<usize>,

    /// How matrix products of weights are computed; generation on the CPU rounds the weights alone
    #[arg(long, value_enum, default_value = "auto")]
    pub(crate) precision: PrecisionArg,

    /// The most memory that a training step may take, such as 40GiB [default: what a GPU has free]
    #[arg(long, value_name = "BYTES")]
    pub(crate) memory: Option<ByteSize>,

    /// How long each of both is measured, at least; three repetitions are done in any case
    #[arg(long, value_name = "S", default_value_t = 10.0, value_parser = seconds)]
    pub(crate) seconds: f64,

    #[command(flatten)]
    pub(crate) device: DeviceArgs,

    /// Print the result as JSON on stdout
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  mblm doctor
  mblm doctor --device cuda:1 --json

Exit code 0: everything that was checked computes rightly; 1: something does not. A missing GPU is no failure.
Speeds are medians of a few repetitions; a GB is 10⁹ bytes, read and written.")]
pub(crate) struct DoctorArgs {
    /// Check this device only: cpu, cuda or cuda:N [default: the CPU and every CUDA device]
    #[arg(long, value_name = "DEVICE")]
    pub(crate) device: Option<String>,

    /// Print the result as JSON on stdout
    #[arg(long)]
    pub(crate) json: bool,
}

/// How matrix products are computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum PrecisionArg {
    /// bf16 on GPUs, float32 on the CPU
    Auto,
    /// 32-bit floats everywhere
    Float32,
    /// Rounded to bfloat16, summed in float32; everything else stays float32
    Bf16,
}

impl PrecisionArg {
    /// The name on the command line and in configurations.
    pub(crate) fn name(self) -> String {
        self.to_possible_value()
            .map_or_else(String::new, |value| value.get_name().to_string())
    }
}

impl From<PrecisionArg> for Precision {
    fn from(precision: PrecisionArg) -> Self {
        match precision {
            PrecisionArg::Auto => Self::Auto,
            PrecisionArg::Float32 => Self::Float32,
            PrecisionArg::Bf16 => Self::Bf16,
        }
    }
}

/// A model that can be measured by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum BenchModel {
    /// 5.5 M parameters, two Transformer stages of [256, 8]
    Transformer,
    /// The same with Mamba1 on top, states of 16
    Mamba1,
    /// The same with Mamba2 on top, states of 64
    Mamba2,
    /// One Transformer stage of 2048 bytes, 8 layers
    Flat,
    /// 359 M parameters, Mamba2 over a Transformer, stages of [1024, 8]: for a large GPU, with --batch-size 6
    #[value(name = "2d-359m")]
    TwoStages,
    /// 363 M parameters, Mamba2 over two Transformers, stages of [8192, 16, 8]: for a large GPU, with --batch-size 1
    #[value(name = "3d-363m")]
    ThreeStages,
    /// 361 M parameters, one Transformer stage of 8192 bytes: for a large GPU, with --batch-size 4
    #[value(name = "1d-361m")]
    OneStage,
}

impl BenchModel {
    /// The name on the command line.
    pub(crate) fn name(self) -> String {
        self.to_possible_value()
            .map_or_else(String::new, |value| value.get_name().to_string())
    }
}

/// What `mblm bench` measures.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum BenchWhat {
    /// Training and generation
    All,
    /// Training steps
    Train,
    /// Prefill and decoding
    Generate,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  mblm completions bash > ~/.local/share/bash-completion/completions/mblm")]
pub(crate) struct CompletionsArgs {
    /// The shell
    pub(crate) shell: clap_complete::Shell,
}

fn up_to(most: u64) -> clap::builder::RangedU64ValueParser<usize> {
    clap::builder::RangedU64ValueParser::new().range(1..=most)
}

fn at_least_two() -> clap::builder::RangedU64ValueParser<usize> {
    clap::builder::RangedU64ValueParser::new().range(2..)
}

fn seconds(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(seconds) if (0.0..=86_400.0).contains(&seconds) => Ok(seconds),
        _ => Err("expected seconds, 0 to 86400, such as 10".into()),
    }
}

fn percent(text: &str) -> Result<f64, String> {
    match text.trim().parse::<f64>() {
        Ok(percent) if (0.0..=100.0).contains(&percent) => Ok(percent),
        _ => Err("expected percent, 0 to 100, such as 50".into()),
    }
}

fn at_least_one() -> clap::builder::RangedU64ValueParser<usize> {
    clap::builder::RangedU64ValueParser::new().range(1..)
}

/// A mistake in the arguments that only the files they name reveal.
#[derive(Debug)]
pub(crate) struct Usage(pub(crate) String);

impl std::fmt::Display for Usage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Usage {}
