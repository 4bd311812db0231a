//! The next id, from the logits of one position.
//!
//! With logits ℓ_i of V ids, in this order:
//!
//! 1. **Forbidden ids** and ids of logit −∞ are removed.
//! 2. **Repetition penalty** θ (CTRL, arXiv 1909.05858): for ids among the last ids, ℓ_i ← ℓ_i / θ
//!    if ℓ_i > 0, else ℓ_i · θ.
//! 3. **Greedy**, if set: the largest ℓ_i, the lowest id among equals, ends the procedure.
//! 4. **Temperature** T: ℓ_i ← (ℓ_i − max ℓ) / T; weights w_i = exp ℓ_i; probabilities p_i = w_i /
//!    Σ w over the remaining ids.
//! 5. **Top-k**: the k best ids remain; of equal ones the lowest. The Python package's
//!    `filter_thres` t is k = max(⌊(1 − t)·V⌋, 1).
//! 6. **Top-p** (nucleus, arXiv 1904.09751): the fewest best ids with a total probability ≥ p.
//! 7. **Min-p** (arXiv 2407.01082): ids with p_i ≥ min-p · max p.
//! 8. **Draw** by inverse CDF: the first id, ascending, whose running sum of w exceeds u · Σ w, u
//!    uniform in [0, 1).
//!
//! The package divides by the temperature after its filter and draws with Gumbel noise: the same
//! distribution. Equal logits give equal draws on every machine: arithmetic is `f64`, exp is
//! libm's.
//!
//! ```
//! use mblm::generate::{Sampler, Sampling};
//!
//! let mut sampler = Sampler::new(Sampling::greedy(), 0, 0)?; // seed, number of the stream
//! assert_eq!(sampler.next(&[0.1, 2.0, 0.3])?, 1);
//! # Ok::<(), mblm::Error>(())
//! ```

use std::cmp::Ordering;
use std::collections::VecDeque;

use rand_core::Rng;
use rand_pcg::Pcg64Dxsm;
use serde::{Deserialize, Deserializer, Serialize};

use super::TokenSet;
use crate::{Error, Result};

/// The longest [`Sampling::repetition_window`].
pub const MAX_REPETITION_WINDOW: usize = 65_536;

/// How to choose the next id; formulas in the [module](self). The default is the model's
/// distribution.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Sampling {
    /// T ≥ 0; 0 is greedy, 1 the model's distribution.
    pub temperature: f64,
    /// k ≥ 1; 1 is greedy.
    pub top_k: Option<usize>,
    /// 0 < p ≤ 1; 1 keeps all ids.
    pub top_p: Option<f64>,
    /// 0 ≤ min-p ≤ 1; 0 keeps all ids.
    pub min_p: Option<f64>,
    /// The package's top-k: the share of ids removed, 0 to 1; 1 is greedy. Excludes `top_k`.
    pub filter_thres: Option<f64>,
    /// θ, 0.01 to 100; 1 changes nothing, larger values make repetitions rarer.
    pub repetition_penalty: Option<f64>,
    /// How many of the last ids count as repeated, 1 to [`MAX_REPETITION_WINDOW`].
    pub repetition_window: usize,
    /// The allowed ids.
    pub allowed: TokenSet,
}

impl Default for Sampling {
    fn default() -> Self {
        Self {
            temperature: 1.0,
            top_k: None,
            top_p: None,
            min_p: None,
            filter_thres: None,
            repetition_penalty: None,
            repetition_window: 64,
            allowed: TokenSet::all(),
        }
    }
}

impl Sampling {
    /// Always the best id.
    pub fn greedy() -> Self {
        Self {
            temperature: 0.0,
            ..Self::default()
        }
    }

    /// Whether the best id is always chosen, without a draw.
    pub fn is_greedy(&self) -> bool {
        self.temperature == 0.0 || self.top_k == Some(1) || self.filter_thres == Some(1.0)
    }

    /// Checks every option's range.
    ///
    /// # Errors
    ///
    /// Names the first option out of range, its value, the range and a suggestion.
    pub fn validate(&self) -> Result<()> {
        let range = |name: &str, value: Option<f64>, fits: fn(f64) -> bool, expected: &str| match value {
            Some(value) if !fits(value) => Err(Error::input(format!("{name} is {value}: expected {expected}"))),
            _ => Ok(()),
        };
        range(
            "temperature",
            Some(self.temperature),
            |t| t.is_finite() && t >= 0.0,
            "0 (greedy) or a positive number such as 0.8; 1 draws from the model's own distribution",
        )?;
        if self.top_k == Some(0) {
            return Err(Error::input(
                "top-k is 0, which leaves no id: expected 1 (greedy) or more, or leave the option out to keep all",
            ));
        }
        range(
            "top-p",
            self.top_p,
            |p| p > 0.0 && p <= 1.0,
            "more than 0 and at most 1, such as 0.95; 1 keeps all ids",
        )?;
        let from_0_to_1 = |p| (0.0..=1.0).contains(&p);
        range(
            "min-p",
            self.min_p,
            from_0_to_1,
            "0 to 1, such as 0.05; 0 keeps all ids",
        )?;
        range(
            "filter-thres",
            self.filter_thres,
            from_0_to_1,
            "0 to 1, the share of ids left out; 0 keeps all ids, 1 is greedy",
        )?;
        if self.top_k.is_some() && self.filter_thres.is_some() {
            return Err(Error::input(
                "top-k and filter-thres are both set, but they are two forms of one filter; set only one of them",
            ));
        }
        range(
            "repetition-penalty",
            self.repetition_penalty,
            |penalty| (0.01..=100.0).contains(&penalty),
            "0.01 to 100, such as 1.1; 1 changes nothing",
        )?;
        if !(1..=MAX_REPETITION_WINDOW).contains(&self.repetition_window) {
            return Err(Error::input(format!(
                "repetition-window is {}: expected 1 to {MAX_REPETITION_WINDOW} ids, such as 64; for no penalty, leave \
                 repetition-penalty out",
                self.repetition_window
            )));
        }
        if self.allowed.is_empty() {
            return Err(Error::input(
                "allowed is empty, so nothing can be generated: expected a set of ids such as `bytes` or `0-127`",
            ));
        }
        Ok(())
    }

    /// The number of ids that top-k keeps, at least one.
    fn kept(&self, vocabulary: usize) -> usize {
        match (self.top_k, self.filter_thres) {
            // toward zero, as the package's `int`
            (None, Some(thres)) => (((1.0 - thres) * vocabulary as f64) as usize).max(1),
            (top_k, _) => top_k.unwrap_or(vocabulary),
        }
    }
}

/// Chooses the ids of one stream.
///
/// Each stream has its own random numbers, fixed by the seed and the stream's number, so its draws
/// do not depend on other streams. Each drawn id takes one random number; greedy choices take none.
/// A sampler can be saved and continues where it was; loading checks its options.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Sampler {
    #[serde(deserialize_with = "checked")]
    sampling: Sampling,
    rng: Pcg64Dxsm,
    /// The last ids, at most the window's length; only kept with a repetition penalty.
    recent: VecDeque<u32>,
}

fn checked<'de, D: Deserializer<'de>>(from: D) -> Result<Sampling, D::Error> {
    let sampling = Sampling::deserialize(from)?;
    sampling.validate().map_err(serde::de::Error::custom)?;
    Ok(sampling)
}

/// An allowed id.
#[derive(Clone, Copy, Debug)]
struct Candidate {
    id: u32,
    logit: f64,
    /// Proportional to the probability; the best candidate has 1.
    weight: f64,
}

impl Sampler {
    /// Creates a sampler for stream number `stream`.
    ///
    /// # Errors
    ///
    /// Those of [`Sampling::validate`].
    pub fn new(sampling: Sampling, seed: u64, stream: u64) -> Result<Self> {
        sampling.validate()?;
        Ok(Self {
            sampling,
            rng: Pcg64Dxsm::new(spread(seed), spread(stream)),
            recent: VecDeque::new(),
        })
    }

    /// The options.
    pub fn sampling(&self) -> &Sampling {
        &self.sampling
    }

    /// Adds ids that this sampler did not choose (a prompt, forced ids) to the repetition window.
    pub fn observe(&mut self, ids: &[u32]) {
        if self.sampling.repetition_penalty.is_some() {
            let window = self.sampling.repetition_window;
            self.recent.extend(&ids[ids.len().saturating_sub(window)..]);
            self.recent.drain(..self.recent.len().saturating_sub(window));
        }
    }

    /// Chooses the next id from the logits (V) of all ids.
    ///
    /// # Errors
    ///
    /// A logit is NaN or +∞ ([`Error::NoNumbers`]), or no id is possible: all are forbidden or have
    /// logit −∞. The sampler is unchanged then.
    pub fn next(&mut self, logits: &[f32]) -> Result<u32> {
        self.next_among(logits, &TokenSet::all())
    }

    /// Chooses the next id among those allowed by the options and, for this step only, by `also`.
    ///
    /// # Errors
    ///
    /// Those of [`next`](Self::next).
    pub fn next_among(&mut self, logits: &[f32], also: &TokenSet) -> Result<u32> {
        let mut candidates = candidates(logits, &self.sampling.allowed.intersection(also))?;
        self.penalise(&mut candidates, logits.len());
        let id = if self.sampling.is_greedy() {
            best(&candidates).id
        } else {
            self.filter(&mut candidates, logits.len());
            draw(&candidates, uniform(&mut self.rng))
        };
        self.observe(&[id]);
        Ok(id)
    }

    /// Step 2: the repetition penalty.
    fn penalise(&self, candidates: &mut [Candidate], vocabulary: usize) {
        let Some(penalty) = self.sampling.repetition_penalty else {
            return;
        };
        let mut seen = vec![false; vocabulary];
        for &id in &self.recent {
            if let Some(seen) = seen.get_mut(id as usize) {
                *seen = true;
            }
        }
        for candidate in candidates.iter_mut().filter(|candidate| seen[candidate.id as usize]) {
            candidate.logit = if candidate.logit > 0.0 {
                candidate.logit / penalty
            } else {
                candidate.logit * penalty
            };
        }
    }

    /// Steps 4 to 7: sets the weights and removes candidates, ascending by id; at least one stays.
    fn filter(&self, candidates: &mut Vec<Candidate>, vocabulary: usize) {
        let Sampling { temperature, min_p, .. } = self.sampling;
        // at 1, which keeps all, rounding might lose unlikely ids
        let top_p = self.sampling.top_p.filter(|&top_p| top_p < 1.0);
        let largest = best(candidates).logit;
        for candidate in candidates.iter_mut() {
            candidate.weight = libm::exp((candidate.logit - largest) / temperature);
        }
        let kept = self.sampling.kept(vocabulary);
        if kept >= candidates.len() && top_p.is_none() && min_p.is_none() {
            return;
        }
        // logits are finite, hence comparable; a stable sort puts the lowest of equal ids first
        candidates.sort_by(|a, b| b.logit.partial_cmp(&a.logit).unwrap_or(Ordering::Equal));
        candidates.truncate(kept);
        if let Some(top_p) = top_p {
            let enough = top_p * total(candidates);
            let mut sum = 0.0;
            // keeps a candidate if the sum before it is too small; always the first: `enough` > 0
            candidates.retain(|candidate| {
                let needed = sum < enough;
                sum += candidate.weight;
                needed
            });
        }
        if let Some(min_p) = min_p {
            // the best candidate has weight 1
            candidates.retain(|candidate| candidate.weight >= min_p);
        }
        candidates.sort_by_key(|candidate| candidate.id);
    }
}

/// Step 1: the allowed ids, ascending, with their logits; at least one.
fn candidates(logits: &[f32], allowed: &TokenSet) -> Result<Vec<Candidate>> {
    if let Some(id) = logits
        .iter()
        .position(|logit| logit.is_nan() || *logit == f32::INFINITY)
    {
        return Err(Error::NoNumbers {
            place: format!("the logit of id {id}"),
            value: logits[id].into(),
        });
    }
    // ids are `u32`, so a longer vocabulary has no more of them
    let vocabulary = u32::try_from(logits.len()).unwrap_or(u32::MAX);
    let candidates: Vec<Candidate> = allowed
        .ids_below(vocabulary)
        .map(|id| (id, f64::from(logits[id as usize])))
        .filter(|(_, logit)| *logit > f64::NEG_INFINITY)
        .map(|(id, logit)| Candidate { id, logit, weight: 1.0 })
        .collect();
    if candidates.is_empty() {
        return Err(Error::input(format!(
            "no id can be generated: the allowed ids are {allowed}, and none of them is below {} with a logit above \
             -inf; allow more ids",
            logits.len()
        )));
    }
    Ok(candidates)
}

/// Step 3: the largest logit, the lowest id among equals. `candidates` ascend and are not empty.
fn best(candidates: &[Candidate]) -> Candidate {
    let better = |best: Candidate, other: &Candidate| if other.logit > best.logit { *other } else { best };
    candidates.iter().fold(candidates[0], better)
}

/// Step 8. `candidates` include the best id with its weight 1; `uniform` is in [0, 1).
fn draw(candidates: &[Candidate], uniform: f64) -> u32 {
    let target = uniform * total(candidates);
    let mut sum = 0.0;
    let exceeds = |candidate: &&Candidate| {
        sum += candidate.weight;
        sum > target
    };
    // the last sum is the total, which exceeds the target
    candidates.iter().find(exceeds).unwrap_or(&candidates[0]).id
}

/// Σ w, summed in the order of the candidates.
fn total(candidates: &[Candidate]) -> f64 {
    candidates.iter().map(|candidate| candidate.weight).sum()
}

/// A multiple of 2⁻⁵³ in [0, 1).
fn uniform(rng: &mut Pcg64Dxsm) -> f64 {
    (rng.next_u64() >> 11) as f64 / (1u64 << 53) as f64
}

/// 128 well-mixed bits of a number, distinct for distinct numbers.
fn spread(number: u64) -> u128 {
    u128::from(mix(!number)) << 64 | u128::from(mix(number))
}

/// The output function of SplitMix64 (Steele, Lea and Flood 2014), a bijection.
fn mix(number: u64) -> u64 {
    let mut z = number.wrapping_add(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests;
