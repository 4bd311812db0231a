//! The number of bytes that `mblm generate` writes: the requested number, the rest of the context,
//! or no limit.

use mblm::config::ModelConfig;

use super::args::WindowArg;
use crate::usage::Usage;

/// The bytes that `--window crop` leaves for the continuation if no number is given.
const CONTINUATION: usize = 200;

/// The options that determine the length.
pub(super) struct Length {
    pub(super) asked: Option<usize>,
    pub(super) window: WindowArg,
}

impl Length {
    /// Returns the bytes to generate after a prompt of `prompt` bytes: the requested number, else
    /// the rest of the context.
    ///
    /// Fails if the model has too few positions, and if the prompt fills the context.
    pub(super) fn max_bytes(&self, prompt: usize, model: &ModelConfig) -> Result<usize, Usage> {
        let context = model.context();
        match self.window {
            WindowArg::Error => whole(self.asked, prompt, model),
            WindowArg::Slide => Ok(self.asked.unwrap_or(usize::MAX)),
            WindowArg::Crop => {
                let left = context.saturating_sub(prompt);
                let max_bytes = self.asked.unwrap_or(left.max(CONTINUATION).min(context / 2).max(1));
                match max_bytes < context {
                    true => Ok(max_bytes),
                    false => Err(Usage(format!(
                        "--window crop: {max_bytes} bytes to generate leave no room for a prompt in the context of {context} \
                         bytes; lower --max-bytes, or give --window slide"
                    ))),
                }
            }
        }
    }
}

fn whole(asked: Option<usize>, prompt: usize, model: &ModelConfig) -> Result<usize, Usage> {
    let context = model.context();
    let max_bytes = match asked {
        Some(max_bytes) => max_bytes,
        None if prompt < context => context - prompt,
        None if model.longest_input().is_none() => {
            return Err(Usage(format!(
                "the prompt of {prompt} bytes fills the model's context of {context}; set --max-bytes to generate \
                 beyond it, shorten the prompt, or give --window crop (its last bytes) or --window slide"
            )));
        }
        None => 1, // too many in any case: the check below fails and gives the advice
    };
    match model.longest_input() {
        Some(longest) if prompt.saturating_add(max_bytes) > longest => {
            let windows = "give --window crop (the last bytes of the prompt) or --window slide (no end)";
            let advice = match longest.saturating_sub(prompt) {
                0 => format!("shorten the prompt, or {windows}"),
                left => format!("lower --max-bytes to {left}, shorten the prompt, or {windows}"),
            };
            Err(Usage(format!(
                "prompt and continuation are {prompt} + {max_bytes} bytes, but the model has fixed positions for {longest}; \
                 {advice}"
            )))
        }
        _ => Ok(max_bytes),
    }
}
