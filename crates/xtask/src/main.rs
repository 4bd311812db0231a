//! `cargo xtask tidy`: checks of the source tree beyond the compiler and clippy.
//!
//! | file | holds |
//! |---|---|
//! | `chart` | the README's chart |
//! | `log` | the bundled log file |
//! | `tree` | the files of the repository, and Rust files with their syntax trees |
//! | `modules` | the module tree of a crate, and the resolution of its paths |
//! | `rules` | the rules, grouped by topic |

mod chart;
mod log;
mod modules;
mod rules;
mod tree;

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result};

const USAGE: &str = "usage: cargo xtask tidy | lines | chart | log

  tidy   check every rule; print each finding as FILE:LINE: MESSAGE and fail if there is any
  lines  print the lines of each crate without its tests
  chart  draw the README's chart from benchmarks/figure.csv
  log    write the bundled log file, data/logs/shop.log.gz";

fn main() -> ExitCode {
    let command = std::env::args().nth(1).unwrap_or_default();
    let result = match command.as_str() {
        "tidy" => tidy(),
        "lines" => lines(),
        "log" => root().and_then(log::run),
        "chart" => root().and_then(|root| chart::run(root, false)),
        _ => {
            eprintln!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    match result {
        Ok(0) => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Returns the repository's root: two folders above this crate.
fn root() -> Result<&'static Path> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2);
    root.context("xtask lies in crates/xtask of the repository")
}

/// Checks every rule. Returns the number of findings.
fn tidy() -> Result<usize> {
    let tree = tree::Tree::read(root()?)?;
    let mut count = 0;
    for (name, rule) in rules::ALL {
        for finding in rule(&tree)? {
            println!("{finding}  [{name}]");
            count += 1;
        }
    }
    match count {
        0 => println!(
            "tidy: {} Rust files, {} rules, nothing found",
            tree.rust.len(),
            rules::ALL.len()
        ),
        count => println!("tidy: {count} findings"),
    }
    Ok(count)
}

fn lines() -> Result<usize> {
    let tree = tree::Tree::read(root()?)?;
    for (name, lines) in tree.lines_by_crate() {
        println!("{name:<12} {lines:>6}");
    }
    Ok(0)
}
