//! What the tests of several modules share.

use mblm::task::TaskRegistry;

/// All tasks, those of this crate too.
pub(crate) fn tasks() -> TaskRegistry {
    let mut tasks = TaskRegistry::default();
    crate::register(&mut tasks);
    tasks
}
