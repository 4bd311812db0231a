//! Compares texts with their snapshots in `snapshots/`, one file for each text. Text that differs
//! between machines (paths of temporary files, times, sizes of memory) is replaced first.

use std::collections::BTreeMap;
use std::sync::Mutex;

use crate::support::root;

/// The number of texts that each test has compared so far; it numbers the snapshots of a test.
static COUNTS: Mutex<BTreeMap<String, usize>> = Mutex::new(BTreeMap::new());

/// Compares the command's stderr with the next snapshot of the running test.
#[track_caller]
pub(crate) fn check_error(stderr: &str) {
    let thread = std::thread::current();
    let test = thread.name().unwrap_or("main").replace("::", "__");
    let number = {
        let mut counts = COUNTS.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let count = counts.entry(test.clone()).or_insert(0);
        *count += 1;
        *count
    };
    check(&format!("{test}-{number:02}"), stderr);
}

/// Compares a text with the snapshot of this name.
#[track_caller]
pub(crate) fn check(name: &str, text: &str) {
    let root = root().canonicalize().unwrap();
    let text = text.replace(root.to_str().unwrap(), "[ROOT]");
    let text = text.replace(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."), "[ROOT]");
    let mut settings = insta::Settings::new();
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    settings.add_filter(r"(/[^\s/:`]+)*/\.tmp[A-Za-z0-9]{6}", "[TMP]");
    settings.add_filter("\u{1b}\\[[0-9;]*m", "");
    settings.add_filter(r"\d{4}-\d\d-\d\dT[\d:.]+Z", "[TIME]");
    settings.add_filter(r"\.[A-Za-z0-9]{6}\.tmp", ".[RANDOM].tmp");
    settings.add_filter(r"_\d{10}\b", "_[TIME]");
    settings.add_filter(r"\d+(\.\d+)? [MG]iB", "[SIZE]");
    settings.bind(|| insta::assert_snapshot!(name, text));
}
