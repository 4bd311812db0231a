//! Helpers for the tests of several modules.

use mblm::task::TaskRegistry;

/// Returns all tasks, including this crate's.
pub(crate) fn tasks() -> TaskRegistry {
    let mut tasks = TaskRegistry::default();
    crate::register(&mut tasks);
    tasks
}
