//! One sample in the making: from logits to the ids that are known to belong to it, until it has ended.
//!
//! What a sample becomes depends on what it goes on from, the rules, the seed and the sample's number alone. A stop text is known
//! only when it is complete, so what could become one is held back.

use std::sync::Arc;

use super::constraint::Utf8Only;
use super::sample::{Sampler, Sampling};
use super::stop::{StopReason, StopRules, StopScanner};
use super::token_set::TokenSet;
use crate::Result;

/// Why a sample ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// It has all its bytes.
    Length,
    /// By what the rules name.
    Stop(StopReason),
    /// It was interrupted.
    Interrupted,
}

/// What all samples of a completion have in common.
#[derive(Clone, Debug)]
pub(super) struct Rules {
    /// Its set of allowed ids holds the stop ids.
    pub(super) sampling: Sampling,
    /// Whether a sample is to be valid UTF-8 after what it goes on from.
    pub(super) utf8: bool,
    pub(super) stop: StopRules,
}

/// One sample in the making.
pub(super) struct Draft {
    rules: Arc<Rules>,
    sampler: Sampler,
    utf8: Option<Utf8Only>,
    scanner: StopScanner,
    /// What the last id has made known to belong to the sample.
    released: Vec<u32>,
    end: Option<End>,
}

impl Draft {
    /// The sample of this number, after `before`, as much of it as is known.
    pub(super) fn new(rules: Arc<Rules>, seed: u64, number: u64, before: &[u32]) -> Result<Self> {
        let mut sampler = Sampler::new(rules.sampling.clone(), seed, number)?;
        sampler.observe(before);
        // the longest character has four bytes
        let last: Vec<u8> = before[before.len().saturating_sub(4)..]
            .iter()
            .filter_map(|id| u8::try_from(*id).ok())
            .collect();
        Ok(Self {
            sampler,
            utf8: rules.utf8.then(|| Utf8Only::after(&last)),
            scanner: StopScanner::new(&rules.stop)?,
            released: Vec::new(),
            end: None,
            rules,
        })
    }

    /// Why the sample ended; `None` while it goes on.
    pub(super) fn end(&self) -> Option<End> {
        self.end
    }

    /// What the last call has made known to belong to the sample.
    pub(super) fn released(&self) -> &[u32] {
        &self.released
    }

    /// Whether an id is held back, so that the model has read more than is known to belong to the sample.
    pub(super) fn holds_back(&self) -> bool {
        self.scanner.held() > 0
    }

    /// Chooses the next id from its logits (V); `remaining` bytes may still come, this one included. Afterwards
    /// [`released`](Self::released) is what there is to write.
    pub(super) fn choose(&mut self, logits: &[f32], remaining: usize) -> Result<u32> {
        self.released.clear();
        let also = self.allowed(remaining);
        let id = self.sampler.next_among(logits, &also)?;
        match self.scanner.push(id, &mut self.released) {
            Some(reason) => {
                if self.rules.stop.keep {
                    match reason {
                        StopReason::String(index) => {
                            let string = &self.rules.stop.strings[index];
                            self.released.extend(string.iter().map(|byte| u32::from(*byte)));
                        }
                        StopReason::Id(id) => self.released.push(id),
                    }
                }
                self.end = Some(End::Stop(reason));
            }
            None => {
                if let (Some(utf8), Ok(byte)) = (&mut self.utf8, u8::try_from(id)) {
                    utf8.advance(byte)?;
                }
                if remaining == 1 {
                    self.finish(End::Length);
                }
            }
        }
        Ok(id)
    }

    /// The ids that may come next, of those that the sampler's options allow.
    fn allowed(&self, remaining: usize) -> TokenSet {
        let Some(utf8) = &self.utf8 else {
            return TokenSet::all();
        };
        // a stop id ends the text, so it may come between characters only
        let stop: TokenSet = self.rules.stop.ids.iter().copied().collect();
        let bytes = self.rules.sampling.allowed.intersection(&stop.complement());
        let allowed = utf8.allowed_among(&bytes, remaining);
        match utf8.is_complete() {
            true => allowed.union(&stop),
            false => allowed,
        }
    }

    /// Ends the sample for another reason than a stop: nothing is held back any more.
    fn finish(&mut self, end: End) {
        self.scanner.finish(&mut self.released);
        self.end = Some(end);
    }

    /// Ends the sample, if it goes on, before it has all its bytes; what was held back is then released.
    pub(super) fn end_early(&mut self, end: End) {
        self.released.clear();
        if self.end.is_none() {
            self.finish(end);
        }
    }
}
