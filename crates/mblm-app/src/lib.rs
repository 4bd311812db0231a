//! The command `mblm` as a library: its commands, with blocks, data sets and commands of one's own beside the built-in ones.
//!
//! ```no_run
//! use std::process::ExitCode;
//!
//! fn main() -> ExitCode {
//!     mblm_app::App::new()
//!         .tasks(|tasks| tasks.register("nothing", |_| Ok(None)))
//!         .run()
//! }
//! ```
//!
//! A command computes nothing: it reads arguments, shows progress, writes files and ends with an exit code. What a command of
//! one's own needs for that is here:
//!
//! | module | holds |
//! |---|---|
//! | [`command`] | what a command is and is given; what extends the commands there are |
//! | [`options`] | options that several commands have: model, device, precision, split |
//! | [`config`] | configurations of byte models, and checks of them that need the registries |
//! | [`run_folder`] | the folder of a run, and the configuration beside a model |
//! | [`progress`] | bars on a terminal, plain lines elsewhere |
//! | [`output`] | results to stdout, notes to stderr |
//! | [`signals`] | Ctrl-C and termination |
//! | [`patience`] | an end within a second of them, whatever is being computed |
//! | [`device`] | from `--device` to a device |
//! | `drawing` (feature `plot`) | letters and PNG files for drawings of one's own |
//! | [`needle`] | the data set `needle`, and how many of its values a model finds |

mod app;
mod architecture;
pub mod command;
mod commands;
pub mod config;
pub mod device;
#[cfg(feature = "plot")]
pub mod drawing;
mod measure;
mod memory;
pub mod needle;
pub mod options;
pub mod output;
pub mod patience;
mod position_table;
pub mod progress;
mod room;
pub mod run_folder;
pub mod signals;
mod surprisal;
mod usage;

pub use app::App;
pub use command::{Command, Context, Section, parse};
pub use commands::generate::args::GenerateArgs;
pub use commands::generate::rules::GenerateRules;
pub use commands::train::args::TrainArgs;
pub use usage::Usage;
