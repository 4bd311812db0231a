//! Compares the help of every command with its snapshot.

use crate::snapshots;
use crate::support::done;

/// The headings of command lists.
const HEADINGS: [&str; 7] = [
    "Commands:",
    "Start here:",
    "Models:",
    "Data:",
    "Tasks:",
    "Machine:",
    "More:",
];

/// Returns the commands that a help text lists.
fn commands(help: &str) -> Vec<&str> {
    let (mut listed, mut names) = (false, Vec::new());
    for line in help.lines() {
        let name = line.strip_prefix("  ").and_then(|line| line.split(' ').next());
        match name {
            Some(name) if listed && !name.is_empty() && name != "help" => names.push(name),
            Some(_) => {}
            None => listed = HEADINGS.contains(&line),
        }
    }
    names
}

/// Checks the help of a command and of its subcommands. Returns the number of help texts.
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
    assert!(count >= 22, "{count} commands");
}
