//! Tests the `mblm` command from outside: its output, its files and its exit codes.

mod bad_input;
mod bench;
mod clevr;
mod clevr_synth;
mod convert;
mod doctor;
mod early;
mod eval;
mod first_steps;
mod generate;
mod guide;
mod help;
mod inspect;
mod interactive;
mod needle;
mod packed;
mod pictures;
mod plan;
mod plot;
mod real_data;
mod real_inputs;
mod recipes;
#[cfg(unix)]
mod resume;
mod score;
#[cfg(unix)]
mod signals;
mod snapshots;
mod support;
mod train;
mod verify;
mod window;
mod workers;
