//! Texts longer than the model's context: refused, cropped, or read in a sliding window.
//!
//! | window | what the model reads | cost |
//! |---|---|---|
//! | [`Window::Whole`] | all of it, or nothing if it has too few positions | each byte once |
//! | [`Window::Crop`] | the last bytes of the prompt, so that the continuation fits | less than the whole prompt |
//! | [`Window::Slide`] | whenever the context is full, its last half again, from an empty state | one more pass over half a context for each generated half |
//!
//! With [`Window::Slide`] a sample can be endless. The model forgets text that has left the window.

use super::cursor::Cursor;
use super::generator::Generator;
use crate::config::ModelConfig;
use crate::{Error, Result};

/// The handling of text longer than the model's context.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Window {
    /// The model reads all of it. A model with fixed positions refuses text longer than its table.
    #[default]
    Whole,
    /// The model reads the last bytes of the prompt, leaving room for the continuation.
    Crop,
    /// Whenever the context is full, the model reads its last half again.
    Slide,
}

impl Window {
    /// The part of `prompt` to read after `read` ids, with `max_bytes` to follow.
    ///
    /// # Errors
    /// [`Window::Crop`]: the continuation or the ids already read leave no room for a prompt.
    pub(super) fn of_prompt<'a>(
        self,
        model: &ModelConfig,
        read: usize,
        prompt: &'a [u32],
        max_bytes: usize,
    ) -> Result<&'a [u32]> {
        let room = model.context().saturating_sub(read).saturating_sub(max_bytes);
        match self {
            Self::Crop if prompt.len() > room => match room {
                0 => Err(Error::input(format!(
                    "expected room for a prompt in the context of {} bytes, found none: {read} bytes were read and \
                     {max_bytes} are to be generated; generate fewer bytes, or use the sliding window",
                    model.context()
                ))),
                room => Ok(&prompt[prompt.len() - room..]),
            },
            _ => Ok(prompt),
        }
    }
}

/// A sliding window: the ids read most recently.
#[derive(Clone, Debug)]
pub(super) struct Sliding {
    /// Positions of the context.
    limit: usize,
    /// The last ids read, at most `limit`.
    recent: Vec<u32>,
}

impl Sliding {
    /// Creates a window over a text whose beginning `before` has been read.
    pub(super) fn new(model: &ModelConfig, before: &[u32]) -> Self {
        let mut sliding = Self {
            limit: model.context().max(1),
            recent: Vec::new(),
        };
        sliding.remember(before);
        sliding
    }

    /// Records ids that the model reads.
    pub(super) fn remember(&mut self, ids: &[u32]) {
        self.recent.extend_from_slice(ids);
        if self.recent.len() > 2 * self.limit {
            self.recent.drain(..self.recent.len() - self.limit);
        }
    }

    /// Whether `more` ids do not fit after `cursor`.
    pub(super) fn is_full(&self, cursor: &Cursor, more: usize) -> bool {
        cursor.position().saturating_add(more) > self.limit
    }

    /// Returns an empty state, and the last half of the context, which it has to read.
    pub(super) fn slide(&self, generator: &Generator) -> Result<(Cursor, &[u32])> {
        let patch = generator.model().config().patch_bytes(0).max(1);
        let half = (self.limit / 2 / patch * patch).max(1);
        let from = self.recent.len().saturating_sub(half);
        Ok((Cursor::begin(generator)?, &self.recent[from..]))
    }
}
