//! What the options ask of a sample: how its bytes are chosen, which they may be, and what ends it.

use anyhow::Result;
use mblm::generate::{Sampling, StopRules, TokenSet, Utf8Only};

use crate::args::{GenerateArgs, Only, SamplingArgs, Usage};

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

    /// What the command line asks for.
    pub(crate) fn new(args: &GenerateArgs) -> Result<Self> {
        let (bytes, utf8) = allowed(&args.sampling)?;
        let stop: TokenSet = args.stop_id.iter().copied().collect();
        if let Some(forbidden) = &args.sampling.forbid
            && let Some(id) = args.stop_id.iter().find(|id| forbidden.contains(**id))
        {
            return Err(Usage(format!(
                "--stop-id {id} never comes, as --forbid names it: leave it out of one of them"
            ))
            .into());
        }
        let given = &args.sampling;
        let sampling = Sampling {
            temperature: given.temperature,
            top_k: given.top_k,
            top_p: given.top_p,
            min_p: given.min_p,
            filter_thres: given.filter_thres,
            repetition_penalty: given.repetition_penalty,
            repetition_window: given.repetition_window,
            allowed: bytes.union(&stop),
        };
        sampling.validate().map_err(|error| Usage(error.to_string()))?;
        Ok(Self {
            sampling,
            utf8,
            stop: StopRules {
                strings: args.stop.clone(),
                ids: args.stop_id.clone(),
            },
            keep_stop: args.keep_stop,
        })
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

/// The bytes that may be written, and whether they have to be UTF-8.
fn allowed(args: &SamplingArgs) -> Result<(TokenSet, bool)> {
    let (only, utf8) = match &args.only {
        None => (TokenSet::bytes(), false),
        Some(Only::Utf8) => (TokenSet::bytes(), true),
        Some(Only::Bytes(set)) => (set.clone(), false),
    };
    let allowed = match &args.forbid {
        Some(forbidden) => only.intersection(&forbidden.complement()),
        None => only,
    };
    let first = match utf8 {
        true => Utf8Only::default().allowed_among(&allowed, usize::MAX),
        false => allowed.clone(),
    };
    if first.is_empty() {
        return Err(Usage(
            "--only and --forbid leave no byte that could be written: allow more, or forbid less".to_string(),
        )
        .into());
    }
    Ok((allowed, utf8))
}
