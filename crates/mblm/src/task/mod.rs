//! Tasks: what a data set is for. A task opens the splits of its data set, names the unit that losses and speeds are counted in,
//! and tells what is wrong with a split.
//!
//! | file | holds |
//! |---|---|
//! | `check` | [`CheckReport`]: what a split holds, and what is wrong with it |
//! | `registry` | [`TaskRegistry`]: tasks by name, as `io.dataset_id` of a configuration gives it |
//!
//! A program adds a data set of its own with one closure:
//!
//! ```
//! use std::sync::Arc;
//!
//! use mblm::data::{Dataset, DatasetArgs, Sample, Split};
//! use mblm::task::TaskRegistry;
//!
//! /// One sample of zeros.
//! struct Zeros(usize);
//!
//! impl Dataset for Zeros {
//!     fn len(&self, _epoch: usize) -> usize {
//!         1
//!     }
//!
//!     fn sample(&self, _index: usize, _epoch: usize) -> mblm::Result<Sample> {
//!         Ok(Sample { ids: vec![0; self.0], ..Sample::default() })
//!     }
//!
//!     fn bytes(&self) -> u64 {
//!         self.0 as u64
//!     }
//!
//!     fn describe(&self) -> String {
//!         "zeros".into()
//!     }
//! }
//!
//! let mut tasks = TaskRegistry::default();
//! tasks.register("zeros", |args| Ok(Some(Arc::new(Zeros(args.sample_len)))));
//! let args = DatasetArgs::new("", Split::Train, 3);
//! let zeros = tasks.open("zeros", &args)?.expect("the closure returns one");
//! assert_eq!(zeros.sample(0, 0)?.ids, [0, 0, 0]);
//! # Ok::<(), mblm::Error>(())
//! ```

mod check;
mod registry;

use std::ops::ControlFlow;
use std::sync::Arc;

pub use check::{CheckReport, Checking, grouped, read_samples};
pub use registry::TaskRegistry;

use crate::Result;
use crate::data::{Dataset, DatasetArgs};
use crate::unit::Unit;

/// What a data set is for.
pub trait Task: Send + Sync {
    /// The name in a configuration (`io.dataset_id`).
    fn name(&self) -> &str;

    /// Opens one split as one worker sees it; `None` if the data set has no such split.
    ///
    /// # Errors
    /// Options that make no sense, and whatever is wrong with the files.
    fn open(&self, args: &DatasetArgs) -> Result<Option<Arc<dyn Dataset>>>;

    /// What losses and speeds are counted in.
    fn unit(&self) -> Unit {
        Unit::BYTE
    }

    /// Whether a folder of data can be checked without a configuration: without options, and with samples of any length
    /// ([`DatasetArgs::UNBOUNDED`]).
    fn checks_without_configuration(&self) -> bool {
        false
    }

    /// Looks at all that training on a split would read, and tells what is wrong; `None` if there is no such split. At most `limit`
    /// problems are kept, all are counted. `watch` hears how far it is and may break it off: the report is then of what was read.
    ///
    /// # Errors
    /// Options that make no sense, or a data set that cannot be opened at all.
    fn check(
        &self,
        args: &DatasetArgs,
        limit: usize,
        watch: &mut dyn FnMut(Checking) -> ControlFlow<()>,
    ) -> Result<Option<CheckReport>> {
        let opened = self.open(args)?;
        Ok(opened.map(|dataset| read_samples(&*dataset, args.split, limit, watch)))
    }
}
