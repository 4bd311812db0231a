//! The interface of commands, and the traits with which other crates extend the built-in commands.
//!
//! | trait | purpose |
//! |---|---|
//! | [`Command`] | a command, or a subcommand of a [`Group`] |
//! | [`TaskCommands`] | messages of the commands about a data set: a next step after training, the help of a check |
//! | [`GenerateMode`] | an output mode of `mblm generate`, with its own options and code |
//! | [`RunKind`] | runs that train no byte model, recognized by a key of their configuration |
//!
//! A command reads its arguments with [`parse`]. [`Context`] holds everything that was registered.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Result;
use clap::{ArgMatches, FromArgMatches};
use mblm::blocks::BlockRegistry;
use mblm::config::{IoConfig, has_key, read_text};
use mblm::task::TaskRegistry;

use crate::commands::train::args::TrainArgs;

/// A command of the program.
pub trait Command: Send + Sync {
    /// The name on the command line.
    fn name(&self) -> &'static str;

    /// The [`Group`] that it belongs to; `None` for a top-level command.
    fn parent(&self) -> Option<&'static str> {
        None
    }

    /// The command that it follows in the list of commands; `None` puts it at the end.
    fn follows(&self) -> Option<&'static str> {
        None
    }

    /// The section of the help that lists it; commands of a [`Group`] are listed with the group.
    fn section(&self) -> Section {
        Section::Other
    }

    /// Adds the arguments and the help to `command`, whose name is set:
    /// `MyArgs::augment_args(command)` for arguments that derive [`clap::Args`]. `context` holds
    /// everything that was registered.
    fn arguments(&self, command: clap::Command, context: &Context) -> clap::Command;

    /// Runs the command.
    ///
    /// # Errors
    /// The exit code depends on the error: 2 for [`Usage`](crate::Usage) and
    /// [`mblm::Error::Config`], 3 for [`mblm::Error::NotFinite`], else 1.
    fn run(&self, matches: &ArgMatches, context: &Context) -> Result<ExitCode>;
}

/// A section of the list of commands in the help.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Section {
    /// The first commands of a new user.
    Start,
    /// Models and their predictions.
    Models,
    /// Data sets.
    Data,
    /// Commands of single tasks.
    Tasks,
    /// The machine and the program itself.
    Machine,
    /// Everything else.
    Other,
}

impl Section {
    /// All sections in the order of the help.
    pub(crate) const ALL: [Self; 6] = [
        Self::Start,
        Self::Models,
        Self::Data,
        Self::Tasks,
        Self::Machine,
        Self::Other,
    ];

    /// The heading of the section.
    pub(crate) const fn title(self) -> &'static str {
        match self {
            Self::Start => "Start here",
            Self::Models => "Models",
            Self::Data => "Data",
            Self::Tasks => "Tasks",
            Self::Machine => "Machine",
            Self::Other => "More",
        }
    }
}

/// Parses the arguments of a command.
///
/// # Errors
/// `matches` come from other arguments than `A`.
pub fn parse<A: FromArgMatches>(matches: &ArgMatches) -> Result<A> {
    Ok(A::from_arg_matches(matches)?)
}

/// A group of commands: `mblm data …`.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Group {
    /// The name on the command line.
    pub name: &'static str,
    /// One line of help.
    pub about: &'static str,
    /// The command that it follows in the list of commands; `None` puts it at the end.
    pub follows: Option<&'static str>,
    /// The section of the help that lists it.
    pub section: Section,
}

impl Group {
    /// Returns a group at the end of the list.
    pub const fn new(name: &'static str, about: &'static str) -> Self {
        Self {
            name,
            about,
            follows: None,
            section: Section::Other,
        }
    }

    /// Moves the group to this section of the help.
    #[must_use]
    pub const fn within(mut self, section: Section) -> Self {
        self.section = section;
        self
    }

    /// Puts the group after the command of this name.
    #[must_use]
    pub const fn behind(mut self, command: &'static str) -> Self {
        self.follows = Some(command);
        self
    }
}

/// An entry of the list of commands.
pub(crate) enum Entry {
    Command(Box<dyn Command>),
    Group(Group),
}

impl Entry {
    pub(crate) fn command(command: impl Command + 'static) -> Self {
        Self::Command(Box::new(command))
    }

    /// The name in the list of commands; `None` for a command of a group.
    pub(crate) fn name(&self) -> Option<&str> {
        match self {
            Self::Command(command) if command.parent().is_none() => Some(command.name()),
            Self::Command(_) => None,
            Self::Group(group) => Some(group.name),
        }
    }

    pub(crate) fn section(&self) -> Section {
        match self {
            Self::Command(command) => command.section(),
            Self::Group(group) => group.section,
        }
    }

    pub(crate) fn follows(&self) -> Option<&str> {
        match self {
            Self::Command(command) => command.follows(),
            Self::Group(group) => group.follows,
        }
    }
}

/// A suggested next command, such as `generate` with ` --prompt TEXT`.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct NextStep {
    /// The command, before `-m RUN`.
    pub command: &'static str,
    /// The options after `-m RUN`, with a leading space; may be empty.
    pub options: &'static str,
}

impl NextStep {
    /// Suggests `mblm COMMAND -m RUN OPTIONS`.
    pub const fn new(command: &'static str, options: &'static str) -> Self {
        Self { command, options }
    }
}

/// The messages of the commands about one data set.
pub trait TaskCommands: Send + Sync {
    /// The name, `io.dataset_id`.
    fn dataset(&self) -> &str;

    /// The suggested next command for a model that was trained on it.
    fn next_step(&self) -> NextStep;

    /// Whether a model trained on it generates readable text; a finished run then prints a sample.
    fn is_text(&self) -> bool {
        true
    }

    /// The part of the help of `mblm data check` about it.
    fn check_help(&self) -> Option<CheckHelp> {
        None
    }
}

/// The part of the help of `mblm data check` about one data set.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct CheckHelp {
    /// An example command line.
    pub example: &'static str,
    /// The checks, in a sentence that ends with a full stop.
    pub text: &'static str,
}

impl CheckHelp {
    /// Takes an example and a sentence.
    pub const fn new(example: &'static str, text: &'static str) -> Self {
        Self { example, text }
    }
}

/// An output mode of `mblm generate`, chosen by an option.
pub trait GenerateMode: Send + Sync {
    /// Adds its options to those of `mblm generate`.
    fn arguments(&self, command: clap::Command) -> clap::Command;

    /// An example for the help, such as `mblm generate -m RUN --pictures drawn`.
    fn example(&self) -> &str;

    /// A paragraph for the end of the help, in lines of 110 characters.
    fn help(&self) -> &str;

    /// Whether its option was given.
    fn is_asked(&self, matches: &ArgMatches) -> bool;

    /// Generates samples and writes them.
    ///
    /// # Errors
    /// As [`Command::run`].
    fn run(&self, matches: &ArgMatches, context: &Context) -> Result<ExitCode>;
}

/// A kind of run that does not train a byte model.
pub trait RunKind: Send + Sync {
    /// A top-level key that only configurations of this kind have.
    fn key(&self) -> &str;

    /// The name of the model for messages: `the CNN + LSTM baseline`.
    fn name(&self) -> &str;

    /// The commands that support this kind, for messages.
    fn commands(&self) -> &str;

    /// The unit over which losses are averaged, in the singular: `answer`.
    fn unit(&self) -> &str;

    /// Runs `mblm train` with a configuration of this kind.
    ///
    /// # Errors
    /// As [`Command::run`].
    fn train(&self, config: &Path, args: &TrainArgs, context: &Context) -> Result<ExitCode>;

    /// Returns the data set of a configuration of this kind.
    ///
    /// # Errors
    /// The configuration cannot be read or is invalid.
    fn data(&self, config: &Path, overrides: &[String], context: &Context) -> Result<IoConfig>;
}

/// Everything that was registered, and the global options.
pub struct Context {
    pub(crate) blocks: BlockRegistry,
    pub(crate) tasks: TaskRegistry,
    pub(crate) task_commands: Vec<Box<dyn TaskCommands>>,
    pub(crate) generate_modes: Vec<Box<dyn GenerateMode>>,
    pub(crate) run_kinds: Vec<Box<dyn RunKind>>,
    pub(crate) program: clap::Command,
    pub(crate) quiet: bool,
    /// Configurations that were read from pipes.
    pub(crate) streams: Mutex<HashMap<PathBuf, Arc<str>>>,
}

impl Context {
    /// The registered blocks.
    pub fn blocks(&self) -> &BlockRegistry {
        &self.blocks
    }

    /// The registered data sets.
    pub fn tasks(&self) -> &TaskRegistry {
        &self.tasks
    }

    /// Whether stderr is for errors only.
    pub fn quiet(&self) -> bool {
        self.quiet
    }

    /// Suggests the next command on stderr: `try: mblm …`. Prints nothing with `--quiet`.
    pub fn suggest(&self, command: &str) {
        if !self.quiet {
            crate::output::note(&format!("try: mblm {command}"));
        }
    }

    /// The program with all commands and their arguments, for completions.
    pub fn program(&self) -> &clap::Command {
        &self.program
    }

    /// The messages about one data set, if any are registered.
    pub fn task_commands(&self, dataset: &str) -> Option<&dyn TaskCommands> {
        let mut all = self.task_commands.iter().rev();
        all.find(|task| task.dataset() == dataset).map(|task| &**task)
    }

    /// The messages about all data sets.
    pub fn all_task_commands(&self) -> impl Iterator<Item = &dyn TaskCommands> {
        self.task_commands.iter().map(|task| &**task)
    }

    /// The output modes of `mblm generate`.
    pub fn generate_modes(&self) -> impl Iterator<Item = &dyn GenerateMode> {
        self.generate_modes.iter().map(|mode| &**mode)
    }

    /// The kind of run of a configuration file; `None` for byte models and for a file that cannot
    /// be read.
    pub fn run_kind(&self, config: &Path) -> Option<&dyn RunKind> {
        let text = self.config_text(config).ok()?;
        let mut kinds = self.run_kinds.iter();
        kinds.find(|kind| has_key(&text, kind.key())).map(|kind| &**kind)
    }

    /// Returns the text of a configuration file; `-` is stdin. Text from a pipe is kept, since a
    /// pipe can be read only once.
    ///
    /// # Errors
    /// The file cannot be read, or is not text.
    pub fn config_text(&self, path: &Path) -> mblm::Result<Arc<str>> {
        if path
            .metadata()
            .is_ok_and(|metadata| metadata.is_file() || metadata.is_dir())
        {
            return Ok(read_text(path)?.into());
        }
        // poisoned only by a panic during an insertion
        let mut streams = self.streams.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(text) = streams.get(path) {
            return Ok(text.clone());
        }
        let text: Arc<str> = match path == Path::new("-") {
            true => std::io::read_to_string(std::io::stdin().lock())
                .map_err(|error| mblm::Error::file("stdin", error))?
                .into(),
            false => read_text(path)?.into(),
        };
        streams.insert(path.to_path_buf(), text.clone());
        Ok(text)
    }
}
