//! What the options ask of a sample: how its bytes are chosen, which they may be, and what ends it.

use anyhow::Result;
use mblm::generate::{Sampling, StopRules, TokenSet, Utf8Only};

use super::args::{GenerateArgs, Only, SamplingArgs};
use crate::sampling::Rules;
use crate::usage::Usage;

/// What the command line asks for.
pub(crate) fn rules(args: &GenerateArgs) -> Result<Rules> {
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
    Ok(Rules {
        sampling,
        utf8,
        stop: StopRules {
            strings: args.stop.clone(),
            ids: args.stop_id.clone(),
        },
        keep_stop: args.keep_stop,
    })
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
