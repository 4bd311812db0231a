//! What is asked of a sample: how its bytes are chosen, which they may be, and what ends it.

use anyhow::Result;
use mblm::generate::{Sampling, StopRules};

use crate::usage::Usage;

/// How samples are made; checked.
#[derive(Clone, Debug)]
pub(crate) struct Rules {
    /// Its set of allowed ids holds the stop ids.
    pub(crate) sampling: Sampling,
    /// Whether the sample is to be valid UTF-8 after what it goes on from.
    pub(crate) utf8: bool,
    pub(crate) stop: StopRules,
    /// Whether what ends a sample belongs to it.
    pub(crate) keep_stop: bool,
}

impl Rules {
    /// Bytes chosen by `sampling`, without an end.
    pub(crate) fn endless(sampling: Sampling) -> Self {
        Self {
            sampling,
            utf8: false,
            stop: StopRules::default(),
            keep_stop: false,
        }
    }

    /// The same, where any of these ids may also come and ends a sample.
    pub(crate) fn ending_at(mut self, ids: &[u32]) -> Self {
        self.sampling.allowed = self.sampling.allowed.union(&ids.iter().copied().collect());
        self.stop.ids.extend(ids);
        self
    }

    /// Fails for a stop id that a model of `vocabulary` ids does not have.
    pub(crate) fn check(&self, vocabulary: usize) -> Result<()> {
        match self.stop.ids.iter().find(|id| **id as usize >= vocabulary) {
            Some(id) => Err(Usage(format!(
                "--stop-id {id}: the model has {vocabulary} ids; give one from 0 to {}",
                vocabulary - 1
            ))
            .into()),
            None => Ok(()),
        }
    }
}
