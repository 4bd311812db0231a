//! The `mblm` command.
fn main() {}
