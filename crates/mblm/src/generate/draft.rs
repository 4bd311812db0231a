//! One sample during generation: from logits to the ids that definitely belong to it.
//!
//! A sample depends only on the text before it, the rules, the seed and its index. A stop text is
//! recognized only once complete, so ids that may begin one are held back.

use std::sync::Arc;

use super::constraint::Utf8Only;
use super::sample::{Sampler, Sampling};
use super::stop::{StopReason, StopRules, StopScanner};
use super::token_set::TokenSet;
use crate::Result;

/// Why a sample ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The sample reached its length.
    Length,
    /// A stop text or stop id came.
    Stop(StopReason),
    /// The sample was interrupted.
    Interrupted,
}

/// The rules shared by all samples of a completion.
#[derive(Clone, Debug)]
pub(super) struct Rules {
    /// The allowed ids include the stop ids.
    pub(super) sampling: Sampling,
    /// Whether a sample is valid UTF-8 after the prompt.
    pub(super) utf8: bool,
    pub(super) stop: StopRules,
}

/// One sample during generation.
pub(super) struct Draft {
    rules: Arc<Rules>,
    sampler: Sampler,
    utf8: Option<Utf8Only>,
    scanner: StopScanner,
    /// The ids released by the last call.
    released: Vec<u32>,
    end: Option<End>,
}

impl Draft {
    /// Creates the sample with index `number`, which continues the ids `before`.
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

    /// Why the sample ended; `None` while it continues.
    pub(super) fn end(&self) -> Option<End> {
        self.end
    }

    /// The ids that the last call released to the output.
    pub(super) fn released(&self) -> &[u32] {
        &self.released
    }

    /// Whether an id is held back, that is, the model has read past the released ids.
    pub(super) fn holds_back(&self) -> bool {
        self.scanner.held() > 0
    }

    /// Chooses the next id from its logits (V); at most `remaining` ids may follow, this one
    /// included. [`released`](Self::released) then holds the new output.
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

    /// The ids allowed next, among the sampler's allowed ids.
    fn allowed(&self, remaining: usize) -> TokenSet {
        let Some(utf8) = &self.utf8 else {
            return TokenSet::all();
        };
        // a stop id ends the text, so it may come only between characters
        let stop: TokenSet = self.rules.stop.ids.iter().copied().collect();
        let bytes = self.rules.sampling.allowed.intersection(&stop.complement());
        let allowed = utf8.allowed_among(&bytes, remaining);
        match utf8.is_complete() {
            true => allowed.union(&stop),
            false => allowed,
        }
    }

    /// Ends the sample without a stop and releases the ids held back.
    fn finish(&mut self, end: End) {
        self.scanner.finish(&mut self.released);
        self.end = Some(end);
    }

    /// Ends the sample early, unless it has ended, and releases the ids held back.
    pub(super) fn end_early(&mut self, end: End) {
        self.released.clear();
        if self.end.is_none() {
            self.finish(end);
        }
    }
}
