//! The `mblm` command from outside: what it prints where, what it writes, and how it ends.

mod bad_input;
mod convert;
mod eval;
mod generate;
mod inspect;
mod plot;
mod recipes;
#[cfg(unix)]
mod resume;
#[cfg(unix)]
mod signals;
mod support;
mod train;
mod verify;
