//! The `mblm` command from outside: what it prints where, what it writes, and how it ends.

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
