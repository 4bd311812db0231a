//! Tasks by name, as in `io.dataset_id` of a configuration.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::ControlFlow;
use std::sync::Arc;

use super::{CheckReport, Checking, Task};
use crate::config::suggest;
use crate::data::{Dataset, DatasetArgs, Opener, pg19};
use crate::{Error, Result};

/// Tasks by name. [`TaskRegistry::default`] has this library's: `bytes`, `pg19`, `pg19masked`.
pub struct TaskRegistry {
    tasks: BTreeMap<String, Arc<dyn Task>>,
}

/// A data set alone: opened by a closure, checked sample by sample.
struct Plain<F> {
    name: String,
    open: F,
}

impl<F> Task for Plain<F>
where
    F: Fn(&DatasetArgs) -> Result<Option<Arc<dyn Dataset>>> + Send + Sync,
{
    fn name(&self) -> &str {
        &self.name
    }

    fn open(&self, args: &DatasetArgs) -> Result<Option<Arc<dyn Dataset>>> {
        (self.open)(args)
    }
}

impl TaskRegistry {
    /// Returns a registry without tasks.
    pub fn empty() -> Self {
        Self { tasks: BTreeMap::new() }
    }

    /// Adds a task, replacing one of the same name.
    pub fn add(&mut self, task: impl Task + 'static) {
        self.tasks.insert(task.name().to_string(), Arc::new(task));
    }

    /// Adds a data set that needs only a way to open it, replacing a task of the same name.
    ///
    /// The closure returns one split for one worker, or `None` if the data set has no such split.
    pub fn register<F>(&mut self, name: impl Into<String>, open: F)
    where
        F: Fn(&DatasetArgs) -> Result<Option<Arc<dyn Dataset>>> + Send + Sync + 'static,
    {
        self.add(Plain {
            name: name.into(),
            open,
        });
    }

    /// Returns the names in alphabetical order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tasks.keys().map(String::as_str)
    }

    /// Returns all tasks in the order of their names.
    pub fn tasks(&self) -> impl Iterator<Item = &dyn Task> {
        self.tasks.values().map(|task| &**task)
    }

    /// Returns the last task by name that checks folders of data without a configuration.
    pub fn without_configuration(&self) -> Option<&dyn Task> {
        self.tasks().filter(|task| task.checks_without_configuration()).last()
    }

    /// Returns the task of this name.
    ///
    /// # Errors
    /// An unknown name; the message lists the known ones and the nearest.
    pub fn get(&self, name: &str) -> Result<&dyn Task> {
        let task = self.tasks.get(name).ok_or_else(|| self.unknown(name))?;
        Ok(&**task)
    }

    /// Opens the split that `args` ask for; `None` if the data set has no such split.
    ///
    /// # Errors
    /// An unknown name, invalid arguments, or any problem that the data set finds.
    pub fn open(&self, name: &str, args: &DatasetArgs) -> Result<Option<Arc<dyn Dataset>>> {
        let task = self.get(name)?;
        args.check()?;
        task.open(args)
    }

    /// Checks all data of a split that training would read: [`Task::check`].
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn check(
        &self,
        name: &str,
        args: &DatasetArgs,
        limit: usize,
        watch: &mut dyn FnMut(Checking) -> ControlFlow<()>,
    ) -> Result<Option<CheckReport>> {
        let task = self.get(name)?;
        args.check()?;
        task.check(args, limit, watch)
    }

    fn unknown(&self, name: &str) -> Error {
        let known: Vec<_> = self.names().map(|name| format!("`{name}`")).collect();
        let nearest =
            suggest::nearest(name, self.names()).map_or(String::new(), |known| format!("; did you mean `{known}`?"));
        Error::config(format!(
            "unknown data set `{name}` (io.dataset_id): expected one of {}{nearest}",
            known.join(", ")
        ))
    }
}

impl Default for TaskRegistry {
    fn default() -> Self {
        let mut registry = Self::empty();
        let opener = Opener::default();
        registry.register("bytes", move |args| opener.open(args));
        registry.register("pg19", pg19::open);
        registry.register("pg19masked", pg19::open_masked);
        registry
    }
}

impl fmt::Debug for TaskRegistry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.names()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{Sample, Split};

    struct Constant(u32);

    impl Dataset for Constant {
        fn len(&self, _: usize) -> usize {
            1
        }

        fn sample(&self, _: usize, _: usize) -> Result<Sample> {
            Ok(Sample {
                ids: vec![self.0],
                ..Sample::default()
            })
        }

        fn bytes(&self) -> u64 {
            1
        }

        fn describe(&self) -> String {
            "constant".into()
        }
    }

    #[test]
    fn a_registered_data_set_opens_by_its_name() {
        let mut registry = TaskRegistry::default();
        registry.register("constant", |args| {
            Ok(match args.split {
                Split::Train => Some(Arc::new(Constant(args.pad_token_id))),
                _ => None,
            })
        });
        assert_eq!(
            registry.names().collect::<Vec<_>>(),
            ["bytes", "constant", "pg19", "pg19masked"]
        );
        let args = DatasetArgs {
            pad_token_id: 9,
            ..DatasetArgs::new("", Split::Train, 1)
        };
        let set = registry.open("constant", &args).unwrap().unwrap();
        assert_eq!(set.sample(0, 0).unwrap().ids, [9]);
        let args = DatasetArgs {
            split: Split::Test,
            ..args
        };
        assert!(registry.open("constant", &args).unwrap().is_none());
    }

    #[test]
    fn an_unknown_name_lists_the_known_ones_and_the_nearest() {
        let args = DatasetArgs::new("", Split::Train, 1);
        let message = |name| TaskRegistry::default().open(name, &args).err().unwrap().to_string();
        let expected = "unknown data set `pg19maskd` (io.dataset_id): expected one of `bytes`, `pg19`, `pg19masked`; did you \
                        mean `pg19masked`?";
        assert_eq!(message("pg19maskd"), expected);
        assert!(message("wikipedia").ends_with("`pg19masked`"));
    }

    #[test]
    fn senseless_arguments_are_errors() {
        let message = |args: DatasetArgs| TaskRegistry::default().open("bytes", &args).err().unwrap().to_string();
        let args = DatasetArgs::new("", Split::Train, 0);
        assert!(message(args.clone()).contains("input_seq_len is 0"));
        let args = DatasetArgs {
            sample_len: 1,
            worker: 1,
            ..args
        };
        assert!(message(args).contains("worker 1 of 1"));
    }
}
