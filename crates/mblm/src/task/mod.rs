//! Tasks: the purposes of data sets. A task opens the splits of its data set, names the unit of its
//! losses and speeds, and reports the problems of a split.
//!
//! | file | holds |
//! |---|---|
//! | `check` | [`CheckReport`]: the content and the problems of a split |
//! | `registry` | [`TaskRegistry`]: tasks by name, as in `io.dataset_id` of a configuration |
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

/// The purpose of a data set.
pub trait Task: Send + Sync {
    /// Returns the name in a configuration (`io.dataset_id`).
    fn name(&self) -> &str;

    /// Opens one split for one worker; `None` if the data set has no such split.
    ///
    /// # Errors
    /// Invalid options, and any problem with the files.
    fn open(&self, args: &DatasetArgs) -> Result<Option<Arc<dyn Dataset>>>;

    /// Returns the unit of losses and speeds.
    fn unit(&self) -> Unit {
        Unit::BYTE
    }

    /// Returns whether a folder of data can be checked without a configuration: without options,
    /// and with samples of any length ([`DatasetArgs::UNBOUNDED`]).
    fn checks_without_configuration(&self) -> bool {
        false
    }

    /// Reads all data of a split that training would read and reports the problems; `None` if there
    /// is no such split. All problems are counted, at most `limit` are kept. `watch` is told of the
    /// progress and may stop the check; the report then covers the part that was read.
    ///
    /// # Errors
    /// Invalid options, or a data set that cannot be opened.
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
