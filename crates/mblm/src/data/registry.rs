//! Data sets by name, as `io.dataset_id` of a configuration gives it.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use super::bytes::Opener;
use super::clevr;
use super::dataset::{Dataset, DatasetArgs};
use super::needle;
use super::pg19;
use super::pictures;
use crate::{Error, Result};

type Constructor = Box<dyn Fn(&DatasetArgs) -> Result<Option<Arc<dyn Dataset>>> + Send + Sync>;

/// Names and constructors of data sets. [`Registry::default`] knows this project's own.
pub struct Registry {
    constructors: BTreeMap<String, Constructor>,
}

impl Registry {
    /// A registry that knows no data set.
    pub fn empty() -> Self {
        Self {
            constructors: BTreeMap::new(),
        }
    }

    /// Adds a data set; one of the same name is replaced.
    ///
    /// The constructor returns one split as one worker sees it, or `None` if the data set has no such split.
    pub fn register<F>(&mut self, name: impl Into<String>, constructor: F)
    where
        F: Fn(&DatasetArgs) -> Result<Option<Arc<dyn Dataset>>> + Send + Sync + 'static,
    {
        self.constructors.insert(name.into(), Box::new(constructor));
    }

    /// The names, in alphabetical order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.constructors.keys().map(String::as_str)
    }

    /// Opens the split that `args` ask for; `None` if the data set has no such split.
    ///
    /// # Errors
    /// An unknown name, arguments that make no sense, or whatever the data set finds wrong.
    pub fn open(&self, name: &str, args: &DatasetArgs) -> Result<Option<Arc<dyn Dataset>>> {
        let constructor = self.constructors.get(name).ok_or_else(|| self.unknown(name))?;
        args.check()?;
        constructor(args)
    }

    fn unknown(&self, name: &str) -> Error {
        let known: Vec<_> = self.names().map(|name| format!("`{name}`")).collect();
        let nearest = self
            .names()
            .map(|known| (strsim::damerau_levenshtein(known, name), known))
            .min()
            .filter(|(distance, known)| *distance <= known.len() / 2)
            .map_or(String::new(), |(_, known)| format!("; did you mean `{known}`?"));
        Error::config(format!(
            "unknown data set `{name}` (io.dataset_id): expected one of {}{nearest}",
            known.join(", ")
        ))
    }
}

impl Default for Registry {
    fn default() -> Self {
        let mut registry = Self::empty();
        let opener = Arc::new(Opener::default());
        let shared = opener.clone();
        registry.register("bytes", move |args| opener.open(args));
        registry.register("clevr", clevr::open);
        registry.register("needle", move |args| needle::open(args, &shared));
        registry.register("pg19", pg19::open);
        registry.register("pg19masked", pg19::open_masked);
        registry.register("pictures", pictures::open);
        registry
    }
}

impl fmt::Debug for Registry {
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
        let mut registry = Registry::default();
        registry.register("constant", |args| {
            Ok(match args.split {
                Split::Train => Some(Arc::new(Constant(args.pad_token_id))),
                _ => None,
            })
        });
        assert_eq!(
            registry.names().collect::<Vec<_>>(),
            ["bytes", "clevr", "constant", "needle", "pg19", "pg19masked", "pictures"]
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
        let message = |name| Registry::default().open(name, &args).err().unwrap().to_string();
        let expected = "unknown data set `pg19maskd` (io.dataset_id): expected one of `bytes`, `clevr`, `needle`, `pg19`, \
                        `pg19masked`, `pictures`; did you mean `pg19masked`?";
        assert_eq!(message("pg19maskd"), expected);
        assert!(message("imagenet").ends_with("`pictures`"));
    }

    #[test]
    fn senseless_arguments_are_errors() {
        let message = |args: DatasetArgs| Registry::default().open("bytes", &args).err().unwrap().to_string();
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
