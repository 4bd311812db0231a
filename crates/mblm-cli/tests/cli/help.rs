//! The help of every command, as it was last accepted.

use crate::snapshots;
use crate::support::done;

/// The commands that a help text lists.
fn commands(help: &str) -> Vec<&str> {
    let listed = help.lines().skip_while(|line| *line != "Commands:").skip(1);
    let names = listed.take_while(|line| line.starts_with("  ")).filter_map(|line| {
        let name = line.strip_prefix("  ")?.split(' ').next()?;
        (!name.is_empty() && name != "help").then_some(name)
    });
    names.collect()
}

/// Checks the help of a command and of those below it: how many there are.
fn check(path: &[&str]) -> usize {
    let finished = done(&[path, &["--help"]].concat());
    let help = finished.text();
    let name = ["help", "mblm"].iter().chain(path).copied().collect::<Vec<_>>();
    snapshots::check(&name.join("__"), help);
    let below = commands(help);
    let counts = below.iter().map(|command| check(&[path, &[command]].concat()));
    1 + counts.sum::<usize>()
}

#[test]
fn every_command_has_the_accepted_help() {
    let count = check(&[]);
    assert!(count >= 19, "{count} commands");
}
