//! Turns the options into rules for samples: how bytes are chosen, the allowed bytes, and the stop
//! conditions.

use mblm::generate::{Sampling, SamplingParams, StopRules, TokenSet, Utf8Only};

use super::args::{GenerateArgs, Only, SamplingArgs};
use crate::usage::Usage;

/// The checked sampling options of `mblm generate`.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct GenerateRules {
    /// The sampling parameters; [`SamplingParams::max_bytes`] is still 0, and no interrupt is set.
    pub params: SamplingParams,
    /// The conditions that end a sample.
    pub stop: StopRules,
}

impl GenerateRules {
    /// Reads the rules from the arguments.
    ///
    /// # Errors
    /// Options that allow no byte, or that are out of range.
    pub fn new(args: &GenerateArgs) -> Result<Self, Usage> {
        let allowed = Allowed::new(&args.sampling)?;
        if let Some(forbidden) = &args.sampling.forbid
            && let Some(id) = args.stop_id.iter().find(|id| forbidden.contains(**id))
        {
            return Err(Usage(format!(
                "--stop-id {id} can never be generated, because --forbid contains it: remove it from one of the two \
                 options"
            )));
        }
        let given = &args.sampling;
        let mut params = SamplingParams::new(0);
        params.sampling = Sampling {
            temperature: given.temperature,
            top_k: given.top_k,
            top_p: given.top_p,
            min_p: given.min_p,
            filter_thres: given.filter_thres,
            repetition_penalty: given.repetition_penalty,
            repetition_window: given.repetition_window,
            allowed: allowed.bytes,
        };
        params.sampling.validate().map_err(|error| Usage(error.to_string()))?;
        params.utf8 = allowed.utf8;
        params.seed = args.seed.unwrap_or_else(seed_from_clock);
        params.samples = args.num_samples;
        params.first_sample = args.first_sample - 1;
        params.window = args.window.into();
        Ok(Self {
            params,
            stop: StopRules {
                strings: args.stop.clone(),
                ids: args.stop_id.clone(),
                keep: args.keep_stop,
            },
        })
    }

    /// Fails if a stop id is not below `vocabulary`.
    ///
    /// # Errors
    /// Names the id.
    pub fn check(&self, vocabulary: usize) -> Result<(), Usage> {
        match self.stop.ids.iter().find(|id| **id as usize >= vocabulary) {
            Some(id) => Err(Usage(format!(
                "--stop-id {id}: the model has {vocabulary} ids; give one from 0 to {}",
                vocabulary - 1
            ))),
            None => Ok(()),
        }
    }
}

/// The bytes that may be generated.
struct Allowed {
    bytes: TokenSet,
    /// Whether they must form valid UTF-8.
    utf8: bool,
}

impl Allowed {
    fn new(args: &SamplingArgs) -> Result<Self, Usage> {
        let (only, utf8) = match &args.only {
            None => (TokenSet::bytes(), false),
            Some(Only::Utf8) => (TokenSet::bytes(), true),
            Some(Only::Bytes(set)) => (set.clone(), false),
        };
        let bytes = match &args.forbid {
            Some(forbidden) => only.intersection(&forbidden.complement()),
            None => only,
        };
        let first = match utf8 {
            true => Utf8Only::default().allowed_among(&bytes, usize::MAX),
            false => bytes.clone(),
        };
        match first.is_empty() {
            true => Err(Usage(
                "--only and --forbid leave no byte that could be written: allow more, or forbid less".to_string(),
            )),
            false => Ok(Self { bytes, utf8 }),
        }
    }
}

/// Whole numbers below this are exact as floating-point numbers, such as JSON numbers in
/// JavaScript.
const LARGEST_EXACT: u64 = 1 << 53;

fn seed_from_clock() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.map_or(0, |elapsed| elapsed.as_nanos() as u64 % LARGEST_EXACT)
}
