//! The program `mblm`: registers commands, parses arguments, runs a command and sets the exit code.
//!
//! | exit code | meaning |
//! |---|---|
//! | 0 | done |
//! | 1 | failed: a file that cannot be read, written or understood, data that do not fit the model |
//! | 2 | wrong usage or configuration |
//! | 3 | a loss was not finite, or a model gives no numbers |
//! | 128 + N | ended by signal N: 130 by SIGINT (Ctrl-C), 143 by SIGTERM, 129 by SIGHUP |

use std::ffi::OsString;
use std::process::ExitCode;
use std::sync::Mutex;

use anyhow::{Result, bail};
use clap::builder::ValueParser;
use clap::{Arg, ArgMatches, Args, FromArgMatches};
use mblm::blocks::BlockRegistry;
use mblm::checkpoint::{CONFIG_FILE, RUN_CONFIG, WEIGHTS_FILE};
use mblm::task::TaskRegistry;
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::FmtContext;
use tracing_subscriber::fmt::format::{FormatEvent, FormatFields, Writer};
use tracing_subscriber::registry::LookupSpan;

use crate::command::{Command, Context, Entry, GenerateMode, Group, RunKind, Section, TaskCommands};
use crate::commands;
use crate::commands::train::ranks;
use crate::report::report;
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

Exit codes: 0 done; 1 failed; 2 wrong usage or configuration; 3 a loss or a model's output was not finite; 128 + N ended
by signal N, such as 130 by Ctrl-C (SIGINT) and 143 by SIGTERM.")]
struct GlobalArgs {
    /// Print more on stderr; repeat for still more
    #[arg(short, long, global = true, action = clap::ArgAction::Count, display_order = 900)]
    verbose: u8,

    /// Print only errors on stderr
    #[arg(short, long, global = true, display_order = 901)]
    quiet: bool,
}

/// The program `mblm`, to which other crates add blocks, data sets and commands.
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
    /// Returns the program with all built-in blocks, data sets and commands.
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
                streams: Mutex::default(),
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

    /// Adds a group of commands.
    pub fn group(self, group: Group) -> Self {
        self.entry(Entry::Group(group))
    }

    /// Adds the messages and next steps of a data set.
    pub fn task_commands(mut self, task: impl TaskCommands + 'static) -> Self {
        self.context.task_commands.push(Box::new(task));
        self
    }

    /// Adds an output mode to `mblm generate`.
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

    /// Returns the whole command line: global options and all commands.
    pub fn command_line(&self) -> clap::Command {
        let mut all = with_whole_paragraphs(GlobalArgs::augment_args(clap::Command::new("mblm")));
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
        self.with_sections(all)
    }

    /// Returns the program with a help that lists its commands by section.
    fn with_sections(&self, program: clap::Command) -> clap::Command {
        let heading = |title: &str| {
            let style = program.get_styles().get_header();
            format!("{style}{title}:{style:#}\n")
        };
        let literal = program.get_styles().get_literal();
        let names = program.get_subcommands().map(|command| command.get_name().len());
        let width = names.max().unwrap_or(0);
        let mut list = String::new();
        for section in Section::ALL {
            let entries = self.entries.iter().filter(|entry| entry.section() == section);
            let commands = entries.filter_map(|entry| program.find_subcommand(entry.name()?));
            let lines: Vec<String> = commands
                .map(|command| {
                    let about = command.get_about().map(ToString::to_string).unwrap_or_default();
                    format!("  {literal}{:<width$}{literal:#}  {about}\n", command.get_name())
                })
                .collect();
            if !lines.is_empty() {
                list += &format!("{}{}\n", heading(section.title()), lines.concat());
            }
        }
        let options = heading("Options");
        program.help_template(format!(
            "{{about-with-newline}}\n{{usage-heading}} {{usage}}\n\n{list}{options}{{options}}{{after-help}}"
        ))
    }

    fn commands(&self) -> impl Iterator<Item = &dyn Command> {
        self.entries.iter().filter_map(|entry| match entry {
            Entry::Command(command) => Some(&**command),
            Entry::Group(_) => None,
        })
    }

    fn arguments(&self, command: &dyn Command) -> clap::Command {
        let arguments = command.arguments(clap::Command::new(command.name()), &self.context);
        with_whole_paragraphs(arguments.mut_args(typed_freely))
    }

    /// Runs the command that the arguments of this process name. Prints errors to stderr; ends the
    /// process if the arguments cannot be parsed.
    pub fn run(mut self) -> ExitCode {
        mblm::checkpoint::atomic::fail_points_from_environment();
        let line = self.command_line();
        let arguments = model_first(std::env::args_os().collect(), &line);
        let matches = line.try_get_matches_from(arguments).unwrap_or_else(|error| end(&error));
        let result = global_args(&matches).and_then(|global| {
            start_logging(&global);
            self.run_matches(&matches)
        });
        result.unwrap_or_else(|error| ExitCode::from(report(&error)))
    }

    /// Runs the command of these arguments; the first argument is the program's name. Does not
    /// start logging or print errors, so tests can call it.
    ///
    /// # Errors
    /// A [`clap::Error`] if the arguments cannot be parsed or ask for help; otherwise the command's
    /// error.
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
        // of the ranks of a run the first prints
        self.context.quiet |= name == "train" && ranks::launch()?.is_some_and(|launch| launch.rank > 0);
        // the last one: a command that is registered again replaces the first
        let found = self
            .commands()
            .filter(|command| command.parent() == parent && command.name() == name);
        match found.last() {
            Some(command) => command.run(matches, &self.context),
            None => bail!("there is no command {name}"),
        }
    }
}

/// Joins the lines of each paragraph at the end of the command's help, so that clap wraps the text
/// only once, to the width of the terminal. Indented lines stay as they are.
fn with_whole_paragraphs(command: clap::Command) -> clap::Command {
    let Some(help) = command.get_after_help().map(ToString::to_string) else {
        return command;
    };
    let mut joined = String::with_capacity(help.len());
    let mut before = "";
    for line in help.lines() {
        let goes_on = !before.is_empty()
            && !before.ends_with(':')
            && !before.starts_with(' ')
            && !line.starts_with(' ')
            && !line.is_empty();
        match (joined.is_empty(), goes_on) {
            (true, _) => {}
            (false, true) => joined.push(' '),
            (false, false) => joined.push('\n'),
        }
        joined.push_str(line);
        before = line;
    }
    command.after_help(joined)
}

/// Allows option values that begin with a hyphen, except for paths. Text is then taken literally,
/// and an out-of-range negative number is not reported as an unknown option.
fn typed_freely(arg: Arg) -> Arg {
    let one_value = arg
        .get_num_args()
        .is_none_or(|count| count.min_values() == 1 && count.max_values() == 1);
    let is_path = arg.get_value_parser().type_id() == ValueParser::path_buf().type_id();
    let takes_any = !arg.is_positional() && arg.get_action().takes_values() && one_value && !is_path;
    arg.allow_hyphen_values(takes_any)
}

/// Prints the argument error or the requested help and ends the process. Errors of the standard
/// library's number parsers are replaced by plainer ones.
fn end(error: &clap::Error) -> ! {
    /// Error texts of the standard library's number parsers, and their replacements.
    const WORDS: [(&str, &str); 5] = [
        ("invalid digit found in string", "expected a whole number of at least 0"),
        ("number too large to fit in target type", "expected a smaller number"),
        (
            "cannot parse integer from empty string",
            "expected a whole number of at least 0",
        ),
        ("cannot parse float from empty string", "expected a number"),
        ("invalid float literal", "expected a number"),
    ];
    let text = error.render().to_string();
    match WORDS.into_iter().find(|(words, _)| text.contains(words)) {
        Some((words, meant)) if error.kind() == clap::error::ErrorKind::ValueValidation => {
            output::note(text.replace(words, meant).trim_end());
            std::process::exit(2)
        }
        _ => error.exit(),
    }
}

/// Inserts `-m` before a model that is the first argument of a command with that option
/// (`mblm generate runs/my-run`).
fn model_first(mut arguments: Vec<OsString>, line: &clap::Command) -> Vec<OsString> {
    let [_, command, first, ..] = &arguments[..] else {
        return arguments;
    };
    let takes_model = command
        .to_str()
        .and_then(|name| line.find_subcommand(name))
        .is_some_and(|command| {
            command
                .get_arguments()
                .any(|argument| argument.get_id() == "model" && argument.get_short() == Some('m'))
        });
    let is_model = match first.to_str() {
        Some(text) if !text.starts_with('-') => crate::options::model_path(text).is_ok_and(|path| {
            let has = |name: &str| path.join(name).is_file();
            has(RUN_CONFIG) || has(CONFIG_FILE) && has(WEIGHTS_FILE)
        }),
        _ => false,
    };
    let is_given = arguments.iter().any(|argument| {
        let text = argument.to_string_lossy();
        text == "-m" || text == "--model" || text.starts_with("--model=")
    });
    if takes_model && is_model && !is_given {
        arguments.insert(2, "-m".into());
    }
    arguments
}

fn global_args(matches: &ArgMatches) -> Result<GlobalArgs> {
    Ok(GlobalArgs::from_arg_matches(matches)?)
}

/// Starts logging to stderr: warnings by default, more with `-v`, errors only with `-q`. `RUST_LOG`
/// overrides these options.
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
        .with_ansi(false)
        // a log that cannot be written must not end the command
        .log_internal_errors(false)
        .event_format(PlainLine)
        .init();
}

/// Formats log lines like the program's other messages: `warning: …`.
struct PlainLine;

impl<S, N> FormatEvent<S, N> for PlainLine
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, context: &FmtContext<'_, S, N>, mut out: Writer<'_>, event: &Event<'_>) -> std::fmt::Result {
        let level = match *event.metadata().level() {
            Level::ERROR => "error",
            Level::WARN => "warning",
            Level::INFO => "info",
            Level::DEBUG => "debug",
            Level::TRACE => "trace",
        };
        write!(out, "{level}: ")?;
        context.field_format().format_fields(out.by_ref(), event)?;
        writeln!(out)
    }
}
