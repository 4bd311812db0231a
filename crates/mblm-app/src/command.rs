//! What a command is, what it is given, and what a crate registers so that the commands there are know its data sets and runs.
//!
//! | trait | what it adds |
//! |---|---|
//! | [`Command`] | a command, or a subcommand of a [`Group`] |
//! | [`TaskCommands`] | what the commands say and do about a data set: a next step after training, the help of a check |
//! | [`GenerateMode`] | a way of its own to write what a model generates: options and code of `mblm generate` |
//! | [`RunKind`] | runs of another kind than a byte model's, told by a key of their configuration |
//!
//! A command reads its arguments with [`parse`] and asks its [`Context`] for everything that was registered.

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
    /// The word that is typed.
    fn name(&self) -> &'static str;

    /// The [`Group`] that it stands in; `None` for a command by itself.
    fn parent(&self) -> Option<&'static str> {
        None
    }

    /// The command that it stands behind in the list of all; `None` for the end.
    fn follows(&self) -> Option<&'static str> {
        None
    }

    /// The part of the help that lists it; commands of a [`Group`] are listed with the group.
    fn section(&self) -> Section {
        Section::Other
    }

    /// Adds its arguments and help to `command`, which has its name: `MyArgs::augment_args(command)` for arguments that derive
    /// [`clap::Args`]. What was registered is in `context`.
    fn arguments(&self, command: clap::Command, context: &Context) -> clap::Command;

    /// Does the work.
    ///
    /// # Errors
    /// The exit code follows the error: 2 for [`Usage`](crate::Usage) and [`mblm::Error::Config`], 3 for
    /// [`mblm::Error::NotFinite`], else 1.
    fn run(&self, matches: &ArgMatches, context: &Context) -> Result<ExitCode>;
}

/// A part of the list of commands in the help.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Section {
    /// What a new user needs first.
    Start,
    /// Models and what they predict.
    Models,
    /// Data sets.
    Data,
    /// What data sets are for.
    Tasks,
    /// The machine and the program itself.
    Machine,
    /// Everything else.
    Other,
}

impl Section {
    /// All of them in the order of the help.
    pub(crate) const ALL: [Self; 6] = [
        Self::Start,
        Self::Models,
        Self::Data,
        Self::Tasks,
        Self::Machine,
        Self::Other,
    ];

    /// The line above its commands.
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

/// The arguments of a command, as it declared them.
///
/// # Errors
/// `matches` are those of other arguments.
pub fn parse<A: FromArgMatches>(matches: &ArgMatches) -> Result<A> {
    Ok(A::from_arg_matches(matches)?)
}

/// A name that commands stand under: `mblm data …`.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Group {
    /// The word that is typed.
    pub name: &'static str,
    /// One line about it.
    pub about: &'static str,
    /// The command that it stands behind in the list of all; `None` for the end.
    pub follows: Option<&'static str>,
    /// The part of the help that lists it.
    pub section: Section,
}

impl Group {
    /// A group at the end of the list.
    pub const fn new(name: &'static str, about: &'static str) -> Self {
        Self {
            name,
            about,
            follows: None,
            section: Section::Other,
        }
    }

    /// The same in this part of the help.
    #[must_use]
    pub const fn within(mut self, section: Section) -> Self {
        self.section = section;
        self
    }

    /// The same behind the command of this name.
    #[must_use]
    pub const fn behind(mut self, command: &'static str) -> Self {
        self.follows = Some(command);
        self
    }
}

/// A line of the list of commands.
pub(crate) enum Entry {
    Command(Box<dyn Command>),
    Group(Group),
}

impl Entry {
    pub(crate) fn command(command: impl Command + 'static) -> Self {
        Self::Command(Box::new(command))
    }

    /// The word that stands in the list of all; `None` for a command of a group.
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

/// A command to try next, such as `generate` with ` --prompt TEXT`.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct NextStep {
    /// What stands before `-m RUN`.
    pub command: &'static str,
    /// What stands behind it, with a blank before it; may be empty.
    pub options: &'static str,
}

impl NextStep {
    /// `mblm COMMAND -m RUN OPTIONS`.
    pub const fn new(command: &'static str, options: &'static str) -> Self {
        Self { command, options }
    }
}

/// What the commands say and do about the data set of one name.
pub trait TaskCommands: Send + Sync {
    /// The name, `io.dataset_id`.
    fn dataset(&self) -> &str;

    /// What to try with a model that was trained on it.
    fn next_step(&self) -> NextStep;

    /// Whether what a model of it generates can be read as text: a finished run then shows some.
    fn is_text(&self) -> bool {
        true
    }

    /// What the help of `mblm data check` says of it.
    fn check_help(&self) -> Option<CheckHelp> {
        None
    }
}

/// What the help of `mblm data check` says of a data set.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct CheckHelp {
    /// A line of examples.
    pub example: &'static str,
    /// What is looked at: a sentence that ends with a full stop.
    pub text: &'static str,
}

impl CheckHelp {
    /// An example and a sentence.
    pub const fn new(example: &'static str, text: &'static str) -> Self {
        Self { example, text }
    }
}

/// A way of its own to write what a model generates, chosen by an option of `mblm generate`.
pub trait GenerateMode: Send + Sync {
    /// Adds its options to those of `mblm generate`.
    fn arguments(&self, command: clap::Command) -> clap::Command;

    /// A line of examples for the help, such as `mblm generate -m RUN --pictures drawn`.
    fn example(&self) -> &str;

    /// A paragraph for the end of the help, in lines of 110 characters.
    fn help(&self) -> &str;

    /// Whether its option was given.
    fn is_asked(&self, matches: &ArgMatches) -> bool;

    /// Generates and writes.
    ///
    /// # Errors
    /// As [`Command::run`].
    fn run(&self, matches: &ArgMatches, context: &Context) -> Result<ExitCode>;
}

/// Runs of another kind than a byte model's.
pub trait RunKind: Send + Sync {
    /// The key at the top of its configurations that no others have.
    fn key(&self) -> &str;

    /// What such a run is of, for messages: `the CNN + LSTM baseline`.
    fn name(&self) -> &str;

    /// Which commands know it, for messages.
    fn commands(&self) -> &str;

    /// What its losses are means over, in the singular: `answer`.
    fn unit(&self) -> &str;

    /// `mblm train` with a configuration of this kind.
    ///
    /// # Errors
    /// As [`Command::run`].
    fn train(&self, config: &Path, args: &TrainArgs, context: &Context) -> Result<ExitCode>;

    /// The data set of a configuration of this kind.
    ///
    /// # Errors
    /// A configuration that cannot be read or used.
    fn data(&self, config: &Path, overrides: &[String], context: &Context) -> Result<IoConfig>;
}

/// What was registered, and how much is to be said: what a command knows of the program that it is part of.
pub struct Context {
    pub(crate) blocks: BlockRegistry,
    pub(crate) tasks: TaskRegistry,
    pub(crate) task_commands: Vec<Box<dyn TaskCommands>>,
    pub(crate) generate_modes: Vec<Box<dyn GenerateMode>>,
    pub(crate) run_kinds: Vec<Box<dyn RunKind>>,
    pub(crate) program: clap::Command,
    pub(crate) quiet: bool,
    /// Configurations that came through pipes.
    pub(crate) streams: Mutex<HashMap<PathBuf, Arc<str>>>,
}

impl Context {
    /// The blocks that models are built with.
    pub fn blocks(&self) -> &BlockRegistry {
        &self.blocks
    }

    /// The data sets by name.
    pub fn tasks(&self) -> &TaskRegistry {
        &self.tasks
    }

    /// Whether nothing but errors is to be said on stderr.
    pub fn quiet(&self) -> bool {
        self.quiet
    }

    /// All commands with their arguments, for completions.
    pub fn program(&self) -> &clap::Command {
        &self.program
    }

    /// What the commands know of a data set.
    pub fn task_commands(&self, dataset: &str) -> Option<&dyn TaskCommands> {
        let mut all = self.task_commands.iter().rev();
        all.find(|task| task.dataset() == dataset).map(|task| &**task)
    }

    /// All data sets that the commands know more of.
    pub fn all_task_commands(&self) -> impl Iterator<Item = &dyn TaskCommands> {
        self.task_commands.iter().map(|task| &**task)
    }

    /// The ways of their own to write what a model generates.
    pub fn generate_modes(&self) -> impl Iterator<Item = &dyn GenerateMode> {
        self.generate_modes.iter().map(|mode| &**mode)
    }

    /// The kind of run that a configuration file is of; `None` for a byte model's, and for a file that cannot be read.
    pub fn run_kind(&self, config: &Path) -> Option<&dyn RunKind> {
        let text = self.config_text(config).ok()?;
        let mut kinds = self.run_kinds.iter();
        kinds.find(|kind| has_key(&text, kind.key())).map(|kind| &**kind)
    }

    /// The text of a configuration file; `-` is stdin. What can be read only once, such as a pipe, is remembered.
    ///
    /// # Errors
    /// A file that cannot be read, or is no text.
    pub fn config_text(&self, path: &Path) -> mblm::Result<Arc<str>> {
        if path
            .metadata()
            .is_ok_and(|metadata| metadata.is_file() || metadata.is_dir())
        {
            return Ok(read_text(path)?.into());
        }
        // poisoned only by a panic while a text was put in
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
