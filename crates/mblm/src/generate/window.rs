//! What becomes of a text that is longer than the model's context: refused, its end kept, or a window that slides over it.
//!
//! | window | what the model reads | what it costs |
//! |---|---|---|
//! | [`Window::Whole`] | all of it, or nothing where it has not enough positions | each byte once |
//! | [`Window::Crop`] | of the prompt the last bytes, so that the continuation still fits | less than the whole prompt |
//! | [`Window::Slide`] | whenever the context is full, its last half anew, from an empty state on | one more pass over half a context for each half that is generated |
//!
//! With [`Window::Slide`] a sample can go on for ever. It forgets what has left the window.

use super::cursor::Cursor;
use super::generator::Generator;
use crate::config::ModelConfig;
use crate::{Error, Result};

/// What becomes of a text that is longer than the model's context.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Window {
    /// The model reads all of it. A model with fixed positions refuses more than it has.
    #[default]
    Whole,
    /// Of a prompt, only as many of its last bytes as leave room for the continuation.
    Crop,
    /// Whenever the context is full, its last half is read anew.
    Slide,
}

impl Window {
    /// The part of `prompt` that is read where `read` ids have been read already and `max_bytes` are to follow.
    ///
    /// # Errors
    /// [`Window::Crop`] with a continuation, or with ids already read, that leave no room for any prompt.
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
                    "expected room for a prompt in the context of {} bytes, found none after {read} bytes that were read and \
                     {max_bytes} to generate; generate fewer bytes, or let the window slide",
                    model.context()
                ))),
                room => Ok(&prompt[prompt.len() - room..]),
            },
            _ => Ok(prompt),
        }
    }
}

/// A window that slides: what the model has read lately.
#[derive(Clone, Debug)]
pub(super) struct Sliding {
    /// Positions of the context.
    limit: usize,
    /// The last ids that were read, `limit` at most.
    recent: Vec<u32>,
}

impl Sliding {
    /// A window over a text that begins with `before`, which the model has read.
    pub(super) fn new(model: &ModelConfig, before: &[u32]) -> Self {
        let mut sliding = Self {
            limit: model.context().max(1),
            recent: Vec::new(),
        };
        sliding.remember(before);
        sliding
    }

    /// Notes what the model reads.
    pub(super) fn remember(&mut self, ids: &[u32]) {
        self.recent.extend_from_slice(ids);
        if self.recent.len() > 2 * self.limit {
            self.recent.drain(..self.recent.len() - self.limit);
        }
    }

    /// Whether `more` ids have no room behind `cursor`.
    pub(super) fn is_full(&self, cursor: &Cursor, more: usize) -> bool {
        cursor.position().saturating_add(more) > self.limit
    }

    /// A state that has read the last half of the context and nothing before it, and what of it is to be read yet.
    pub(super) fn slide(&self, generator: &Generator) -> Result<(Cursor, &[u32])> {
        let patch = generator.model().config().patch_bytes(0).max(1);
        let half = (self.limit / 2 / patch * patch).max(1);
        let from = self.recent.len().saturating_sub(half);
        Ok((Cursor::begin(generator)?, &self.recent[from..]))
    }
}
