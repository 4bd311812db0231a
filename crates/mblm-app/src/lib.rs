//! The command `mblm` as a library. Other crates add blocks, data sets and commands to the built-in
//! ones.
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
//! A command computes nothing itself: it reads arguments, shows progress, writes files and returns
//! an exit code. These modules help to write one:
//!
//! | module | holds |
//! |---|---|
//! | [`command`] | the interface of commands, and the traits that extend the built-in commands |
//! | [`options`] | options that several commands share: model, device, precision, split |
//! | [`config`] | reads configurations of byte models, and checks them against the registries |
//! | [`run_folder`] | the folder of a run, and the configuration beside a model |
//! | [`progress`] | progress bars on a terminal, plain lines elsewhere |
//! | [`output`] | results to stdout, notes to stderr |
//! | [`signals`] | Ctrl-C and termination |
//! | [`patience`] | ends a command within a second of a signal |
//! | [`device`] | opens the device of `--device` |
//! | `drawing` (feature `plot`) | text and PNG files for figures |
//! | [`needle`] | the data set `needle`, and a measurement of the values that a model finds |

mod app;
mod architecture;
pub mod command;
mod commands;
pub mod config;
pub mod device;
#[cfg(feature = "plot")]
pub mod drawing;
mod file_kinds;
mod measure;
mod memory;
pub mod needle;
pub mod options;
pub mod output;
pub mod patience;
mod position_table;
pub mod progress;
mod report;
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
