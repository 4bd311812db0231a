//! The program: its commands, what they know of, and how it ends.
//!
//! | exit code | meaning |
//! |---|---|
//! | 0 | done |
//! | 1 | failed: a file that cannot be read, written or understood, data that do not fit the model |
//! | 2 | wrong usage or configuration |
//! | 3 | the loss was not finite |
//! | 130, 143 | ended by SIGINT (Ctrl-C), SIGTERM |

use std::error::Error;
use std::ffi::OsString;
use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::{ArgMatches, Args, FromArgMatches};
use mblm::blocks::BlockRegistry;
use mblm::task::TaskRegistry;
use tracing_subscriber::EnvFilter;

use crate::command::{Command, Context, Entry, GenerateMode, Group, RunKind, TaskCommands};
use crate::commands;
use crate::usage::Usage;
use crate::{needle, output};

/// Train, run and evaluate hierarchical language models over raw bytes.
#[derive(Debug, Args)]
#[command(
    version,
    about = "Train, run and evaluate hierarchical language models over raw bytes"
)]
#[command(propagate_version = true, max_term_width = 110)]
#[command(subcommand_required = true, arg_required_else_help = true)]
#[command(after_help = "\
Examples:
  mblm train --data book.txt --preset tiny
  mblm train configs/quickstart.yaml --set train.learning_rate=3e-4
  mblm generate -m runs/tiny_1700000000 --prompt 'It was' --max-bytes 200
  mblm eval -m runs/tiny_1700000000 book.txt

Exit codes: 0 done; 1 failed; 2 wrong usage or configuration; 3 the training loss was not finite; 130 and 143 ended by
SIGINT (Ctrl-C) and SIGTERM.")]
struct GlobalArgs {
    /// Say more on stderr; repeat for still more
    #[arg(short, long, global = true, action = clap::ArgAction::Count, display_order = 900)]
    verbose: u8,

    /// Say nothing on stderr but errors
    #[arg(short, long, global = true, display_order = 901)]
    quiet: bool,
}

/// The program `mblm` with blocks, data sets and commands of one's own beside the built-in ones.
///
/// ```no_run
/// use std::process::ExitCode;
///
/// fn main() -> ExitCode {
///     mblm_app::App::new()
///         .tasks(|tasks| tasks.register("nothing", |_| Ok(None)))
///         .run()
/// }
/// ```
#[must_use]
pub struct App {
    entries: Vec<Entry>,
    context: Context,
}

impl Default for App {
    fn default() -> Self {
        Self::new()
    }
}

impl App {
    /// All built-in blocks, data sets and commands.
    pub fn new() -> Self {
        let app = Self {
            entries: commands::builtin(),
            context: Context {
                blocks: BlockRegistry::default(),
                tasks: TaskRegistry::default(),
                task_commands: commands::task_commands(),
                generate_modes: Vec::new(),
                run_kinds: Vec::new(),
                program: clap::Command::new("mblm"),
                quiet: false,
            },
        };
        app.tasks(needle::register)
    }

    /// Registers blocks.
    pub fn blocks(mut self, register: impl FnOnce(&mut BlockRegistry)) -> Self {
        register(&mut self.context.blocks);
        self
    }

    /// Registers data sets.
    pub fn tasks(mut self, register: impl FnOnce(&mut TaskRegistry)) -> Self {
        register(&mut self.context.tasks);
        self
    }

    /// Adds a command.
    pub fn command(self, command: impl Command + 'static) -> Self {
        self.entry(Entry::command(command))
    }

    /// Adds a name that commands stand under.
    pub fn group(self, group: Group) -> Self {
        self.entry(Entry::Group(group))
    }

    /// Adds what the commands say and do about a data set.
    pub fn task_commands(mut self, task: impl TaskCommands + 'static) -> Self {
        self.context.task_commands.push(Box::new(task));
        self
    }

    /// Adds a way to write what a model generates.
    pub fn generate_mode(mut self, mode: impl GenerateMode + 'static) -> Self {
        self.context.generate_modes.push(Box::new(mode));
        self
    }

    /// Adds a kind of run.
    pub fn run_kind(mut self, kind: impl RunKind + 'static) -> Self {
        self.context.run_kinds.push(Box::new(kind));
        self
    }

    fn entry(mut self, entry: Entry) -> Self {
        let behind = entry.follows().and_then(|follows| {
            let mut entries = self.entries.iter();
            entries.position(|other| other.name() == Some(follows))
        });
        match behind {
            Some(place) => self.entries.insert(place + 1, entry),
            None => self.entries.push(entry),
        }
        self
    }

    /// The command line that all of it understands.
    pub fn command_line(&self) -> clap::Command {
        let mut all = GlobalArgs::augment_args(clap::Command::new("mblm"));
        for entry in &self.entries {
            match entry {
                Entry::Command(command) if command.parent().is_none() => {
                    all = all.subcommand(self.arguments(&**command))
                }
                Entry::Command(_) => {}
                Entry::Group(group) => {
                    let empty = clap::Command::new(group.name)
                        .about(group.about)
                        .subcommand_required(true)
                        .arg_required_else_help(true);
                    let members = self.commands().filter(|command| command.parent() == Some(group.name));
                    all = all.subcommand(empty.subcommands(members.map(|command| self.arguments(command))));
                }
            }
        }
        all
    }

    fn commands(&self) -> impl Iterator<Item = &dyn Command> {
        self.entries.iter().filter_map(|entry| match entry {
            Entry::Command(command) => Some(&**command),
            Entry::Group(_) => None,
        })
    }

    fn arguments(&self, command: &dyn Command) -> clap::Command {
        command.arguments(clap::Command::new(command.name()), &self.context)
    }

    /// Does what the arguments of this process ask for. Says on stderr what went wrong, and ends the process where they are not
    /// understood.
    pub fn run(mut self) -> ExitCode {
        mblm::checkpoint::atomic::fail_points_from_environment();
        let matches = self.command_line().get_matches();
        let result = global_args(&matches).and_then(|global| {
            start_logging(&global);
            self.run_matches(&matches)
        });
        result.unwrap_or_else(|error| report(&error))
    }

    /// Does what these arguments ask for, of which the first is the program's name. Starts no logging and reports no errors, so
    /// that a test can call it.
    ///
    /// # Errors
    /// A [`clap::Error`] for arguments that are not understood and for help; whatever a command fails with.
    pub fn try_run_from<I, T>(&mut self, args: I) -> Result<ExitCode>
    where
        I: IntoIterator<Item = T>,
        T: Into<OsString> + Clone,
    {
        let matches = self.command_line().try_get_matches_from(args)?;
        self.run_matches(&matches)
    }

    fn run_matches(&mut self, matches: &ArgMatches) -> Result<ExitCode> {
        self.context.quiet = global_args(matches)?.quiet;
        self.context.program = self.command_line();
        let Some((first, matches)) = matches.subcommand() else {
            bail!("no command was given");
        };
        let (parent, name, matches) = match matches.subcommand() {
            Some((name, matches)) => (Some(first), name, matches),
            None => (None, first, matches),
        };
        // the last one of a name: whoever registers a command again means another one
        let found = self
            .commands()
            .filter(|command| command.parent() == parent && command.name() == name);
        match found.last() {
            Some(command) => command.run(matches, &self.context),
            None => bail!("the command {name} is not there"),
        }
    }
}

fn global_args(matches: &ArgMatches) -> Result<GlobalArgs> {
    Ok(GlobalArgs::from_arg_matches(matches)?)
}

/// Logs go to stderr: warnings by default, more with `-v`, errors only with `-q`; `RUST_LOG` has the last word.
fn start_logging(global: &GlobalArgs) {
    let level = match (global.quiet, global.verbose) {
        (true, _) => "error",
        (false, 0) => "warn",
        (false, 1) => "info",
        (false, 2) => "debug",
        (false, _) => "trace",
    };
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(level));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_target(false)
        // a log that cannot be written is no reason to end the work
        .log_internal_errors(false)
        .init();
}

/// Says what went wrong and gives the exit code for it.
fn report(error: &anyhow::Error) -> ExitCode {
    // whoever read our output has gone: nothing is wrong, and there is nobody to tell
    let gone = |cause: &(dyn Error + 'static)| {
        cause
            .downcast_ref::<std::io::Error>()
            .is_some_and(|error| error.kind() == std::io::ErrorKind::BrokenPipe)
    };
    if error.chain().any(gone) {
        return ExitCode::SUCCESS;
    }
    output::note(&format!("error: {error:#}"));
    let full = |cause: &(dyn Error + 'static)| {
        matches!(cause.downcast_ref(), Some(mblm::Error::Tensor(error)) if mblm::device::is_out_of_memory(error))
            || cause.downcast_ref().is_some_and(mblm::device::is_out_of_memory)
    };
    if error.chain().any(full) {
        output::note(
            "the device's memory is used up: lower --batch-size, --context or --num-samples, see what others use with \
             nvidia-smi, or compute with --device cpu",
        );
    }
    match error.downcast_ref::<mblm::Error>() {
        Some(mblm::Error::Config(_)) => ExitCode::from(2),
        Some(mblm::Error::NotFinite { .. }) => ExitCode::from(3),
        _ if error.is::<Usage>() => ExitCode::from(2),
        _ => ExitCode::FAILURE,
    }
}
