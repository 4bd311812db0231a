//! From the logits of one position to the next id.
//!
//! With logits ℓ_i of V ids, in this order:
//!
//! 1. **Forbidden ids** and ids of logit −∞ are left out.
//! 2. **Repetition penalty** θ (CTRL, arXiv 1909.05858): for ids among the last ids,
//!    ℓ_i ← ℓ_i / θ if ℓ_i > 0, else ℓ_i · θ.
//! 3. **Greedy**, if asked: the largest ℓ_i, the lowest id among equals. Nothing below happens then.
//! 4. **Temperature** T: ℓ_i ← (ℓ_i − max ℓ) / T; weights w_i = exp ℓ_i; probabilities p_i = w_i / Σ w over the ids
//!    that are left.
//! 5. **Top-k**: the k best ids are left; of equal ones the lowest. The Python package's `filter_thres` t is
//!    k = max(⌊(1 − t)·V⌋, 1).
//! 6. **Top-p** (nucleus, arXiv 1904.09751): the fewest best ids whose probabilities add up to p or more.
//! 7. **Min-p** (arXiv 2407.01082): ids with p_i ≥ min-p · max p.
//! 8. **Draw** by inverse CDF: the first id, ascending, at which the running sum of w exceeds u · Σ w,
//!    u uniform in [0, 1).
//!
//! The package divides by the temperature after its filter and draws with Gumbel noise: the same distribution. All
//! arithmetic is in `f64` and exp is libm's, so that equal logits give equal draws on every machine.

use std::cmp::Ordering;
use std::collections::VecDeque;

use rand_core::Rng;
use rand_pcg::Pcg64Dxsm;
use serde::{Deserialize, Deserializer, Serialize};

use super::TokenSet;
use crate::{Error, Result};

/// The longest [`Sampling::repetition_window`].
pub const MAX_REPETITION_WINDOW: usize = 65_536;

/// How the next id is chosen: see the [module](self) for the formulas. The default draws from the model's own
/// distribution.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Sampling {
    /// T ≥ 0; 0 is greedy, 1 the model's distribution.
    pub temperature: f64,
    /// k ≥ 1; 1 is greedy.
    pub top_k: Option<usize>,
    /// 0 < p ≤ 1; 1 leaves all ids.
    pub top_p: Option<f64>,
    /// 0 ≤ min-p ≤ 1; 0 leaves all ids.
    pub min_p: Option<f64>,
    /// The package's form of top-k: the share of ids left out, 0 to 1; 1 is greedy. Not together with `top_k`.
    pub filter_thres: Option<f64>,
    /// θ, 0.01 to 100; 1 changes nothing, more makes repetitions rarer.
    pub repetition_penalty: Option<f64>,
    /// How many of the last ids count as repeated, 1 to [`MAX_REPETITION_WINDOW`].
    pub repetition_window: usize,
    /// The ids that may be produced.
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
    /// The best id every time.
    pub fn greedy() -> Self {
        Self {
            temperature: 0.0,
            ..Self::default()
        }
    }

    /// Whether the best id is taken and nothing is drawn.
    pub fn is_greedy(&self) -> bool {
        self.temperature == 0.0 || self.top_k == Some(1) || self.filter_thres == Some(1.0)
    }

    /// Checks every option's range.
    ///
    /// # Errors
    ///
    /// Names the first option that is out of its range, the value, the range and what to try.
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
                "top-k and filter-thres are both given, but are two forms of one filter: expected one of them",
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
                "repetition-window is {}: expected 1 to {MAX_REPETITION_WINDOW} ids, such as 64; to have no penalty, \
                 leave repetition-penalty out",
                self.repetition_window
            )));
        }
        if self.allowed.is_empty() {
            return Err(Error::input(
                "allowed is empty, so that nothing can be produced: expected a set of ids such as `bytes` or `0-127`",
            ));
        }
        Ok(())
    }

    /// How many ids top-k leaves, at least one.
    fn kept(&self, vocabulary: usize) -> usize {
        match (self.top_k, self.filter_thres) {
            // Towards zero, as the package's `int`.
            (None, Some(thres)) => (((1.0 - thres) * vocabulary as f64) as usize).max(1),
            (top_k, _) => top_k.unwrap_or(vocabulary),
        }
    }
}

/// Chooses the ids of one stream.
///
/// Each stream has its own random numbers, fixed by the seed and the stream's number: what it draws does not depend on
/// how many other streams there are, nor on what they do. One random number is taken for each id drawn, none when
/// greedy. A sampler can be saved and goes on where it was; reading one checks its options.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Sampler {
    #[serde(deserialize_with = "checked")]
    sampling: Sampling,
    rng: Pcg64Dxsm,
    /// The last ids, at most the window's length; kept only for a repetition penalty.
    recent: VecDeque<u32>,
}

fn checked<'de, D: Deserializer<'de>>(from: D) -> Result<Sampling, D::Error> {
    let sampling = Sampling::deserialize(from)?;
    sampling.validate().map_err(serde::de::Error::custom)?;
    Ok(sampling)
}

/// An id that may be produced.
#[derive(Clone, Copy, Debug)]
struct Candidate {
    id: u32,
    logit: f64,
    /// Proportional to the probability; the best candidate has 1.
    weight: f64,
}

impl Sampler {
    /// A sampler for the stream of this number.
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

    /// Tells the repetition penalty of ids that this sampler did not choose: a prompt, or forced ids.
    pub fn observe(&mut self, ids: &[u32]) {
        if self.sampling.repetition_penalty.is_some() {
            let window = self.sampling.repetition_window;
            self.recent.extend(&ids[ids.len().saturating_sub(window)..]);
            self.recent.drain(..self.recent.len().saturating_sub(window));
        }
    }

    /// The next id, from the logits of all ids: `(V)`.
    ///
    /// # Errors
    ///
    /// When a logit is NaN or +∞, or no id can be produced: all are forbidden or have logit −∞. The sampler is
    /// unchanged then.
    pub fn next(&mut self, logits: &[f32]) -> Result<u32> {
        self.next_among(logits, &TokenSet::all())
    }

    /// The next id among those that both the options and `also` allow, where `also` is for this step only.
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

    /// Steps 4 to 7: sets the weights and leaves the candidates that may be drawn, ascending by id; at least the best
    /// one.
    fn filter(&self, candidates: &mut Vec<Candidate>, vocabulary: usize) {
        let Sampling { temperature, min_p, .. } = self.sampling;
        // Rounding might lose unlikely ids at 1, which leaves all.
        let top_p = self.sampling.top_p.filter(|&top_p| top_p < 1.0);
        let largest = best(candidates).logit;
        for candidate in candidates.iter_mut() {
            candidate.weight = libm::exp((candidate.logit - largest) / temperature);
        }
        let kept = self.sampling.kept(vocabulary);
        if kept >= candidates.len() && top_p.is_none() && min_p.is_none() {
            return;
        }
        // The logits are finite, so that they compare; the sort is stable, so that of equal ones the lowest id is
        // first.
        candidates.sort_by(|a, b| b.logit.partial_cmp(&a.logit).unwrap_or(Ordering::Equal));
        candidates.truncate(kept);
        if let Some(top_p) = top_p {
            let enough = top_p * total(candidates);
            let mut sum = 0.0;
            // Those before which the sum was not enough; always the first, as `enough` is positive.
            candidates.retain(|candidate| {
                let needed = sum < enough;
                sum += candidate.weight;
                needed
            });
        }
        if let Some(min_p) = min_p {
            // The best candidate has weight 1.
            candidates.retain(|candidate| candidate.weight >= min_p);
        }
        candidates.sort_by_key(|candidate| candidate.id);
    }
}

/// Step 1: the ids that may be produced, at least one, ascending, with their logits.
fn candidates(logits: &[f32], allowed: &TokenSet) -> Result<Vec<Candidate>> {
    if let Some(id) = logits
        .iter()
        .position(|logit| logit.is_nan() || *logit == f32::INFINITY)
    {
        return Err(Error::input(format!(
            "the logit of id {id} is {}: expected a number; the model's weights may be broken, or its number format \
             too narrow: try float32",
            logits[id]
        )));
    }
    // Ids are `u32`: a longer vocabulary has no more of them.
    let vocabulary = u32::try_from(logits.len()).unwrap_or(u32::MAX);
    let candidates: Vec<Candidate> = allowed
        .ids_below(vocabulary)
        .map(|id| (id, f64::from(logits[id as usize])))
        .filter(|(_, logit)| *logit > f64::NEG_INFINITY)
        .map(|(id, logit)| Candidate { id, logit, weight: 1.0 })
        .collect();
    if candidates.is_empty() {
        return Err(Error::input(format!(
            "no id can be produced: the allowed ids are {allowed}, and none of them is below {} with a logit above \
             -inf; allow more ids",
            logits.len()
        )));
    }
    Ok(candidates)
}

/// Step 3: the candidate of the largest logit, the lowest id among equals. `candidates` are ascending and not empty.
fn best(candidates: &[Candidate]) -> Candidate {
    let better = |best: Candidate, other: &Candidate| if other.logit > best.logit { *other } else { best };
    candidates.iter().fold(candidates[0], better)
}

/// Step 8. `candidates` are not empty, and the best of all is among them with its weight 1; `uniform` is in [0, 1).
fn draw(candidates: &[Candidate], uniform: f64) -> u32 {
    let target = uniform * total(candidates);
    let mut sum = 0.0;
    let exceeds = |candidate: &&Candidate| {
        sum += candidate.weight;
        sum > target
    };
    // The last sum is the total, which exceeds the target.
    candidates.iter().find(exceeds).unwrap_or(&candidates[0]).id
}

/// Σ w, added in the order of the candidates.
fn total(candidates: &[Candidate]) -> f64 {
    candidates.iter().map(|candidate| candidate.weight).sum()
}

/// A multiple of 2⁻⁵³ in [0, 1).
fn uniform(rng: &mut Pcg64Dxsm) -> f64 {
    (rng.next_u64() >> 11) as f64 / (1u64 << 53) as f64
}

/// 128 well-mixed bits of a number; different ones for different numbers.
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
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The model's distribution in most tests: 8 ids.
    const PROBABILITIES: [f64; 8] = [0.04, 0.4, 0.01, 0.15, 0.2, 0.08, 0.02, 0.1];

    fn logits() -> Vec<f32> {
        PROBABILITIES.iter().map(|&p| libm::log(p) as f32 + 3.0).collect()
    }

    /// The default options but for a change.
    fn with(change: impl FnOnce(&mut Sampling)) -> Sampling {
        let mut sampling = Sampling::default();
        change(&mut sampling);
        sampling
    }

    fn ids(allowed: &str) -> TokenSet {
        allowed.parse().unwrap()
    }

    /// Pearson's χ² of counts against exact probabilities, for a chance of 10⁻⁵ to fail were the seed not fixed; ids of
    /// probability 0 must not occur. The bound is Wilson and Hilferty's approximation.
    fn check_distribution(counts: &[u64], probabilities: &[f64]) {
        let draws: u64 = counts.iter().sum();
        let total: f64 = probabilities.iter().sum();
        let (mut chi_squared, mut freedom) = (0.0, -1.0);
        for (&count, &probability) in counts.iter().zip(probabilities) {
            let expected = draws as f64 * probability / total;
            if probability == 0.0 {
                assert_eq!(count, 0, "{counts:?}");
            } else {
                chi_squared += (count as f64 - expected).powi(2) / expected;
                freedom += 1.0;
            }
        }
        let z = 4.265;
        let width: f64 = 2.0 / (9.0 * freedom);
        let bound = freedom * (1.0 - width + z * width.sqrt()).powi(3);
        assert!(chi_squared < bound, "χ² {chi_squared} ≥ {bound}: {counts:?}");
    }

    fn count_draws(sampling: Sampling) -> Vec<u64> {
        let mut sampler = Sampler::new(sampling, 1, 0).unwrap();
        let logits = logits();
        let mut counts = vec![0; logits.len()];
        for _ in 0..50_000 {
            counts[sampler.next(&logits).unwrap() as usize] += 1;
        }
        counts
    }

    #[test]
    fn draws_follow_the_exact_distribution() {
        let only = |ids: &[usize]| {
            let keep = |id| if ids.contains(&id) { PROBABILITIES[id] } else { 0.0 };
            (0..8).map(keep).collect::<Vec<f64>>()
        };
        let check = |sampling: Sampling, expected: &[f64]| check_distribution(&count_draws(sampling), expected);
        check(Sampling::default(), &PROBABILITIES);
        check(with(|s| s.temperature = 0.5), &PROBABILITIES.map(|p| p * p));
        check(with(|s| s.temperature = 2.0), &PROBABILITIES.map(f64::sqrt));
        check(with(|s| s.top_k = Some(3)), &only(&[1, 4, 3]));
        check(with(|s| s.top_k = Some(100)), &PROBABILITIES);
        check(with(|s| s.filter_thres = Some(0.45)), &only(&[1, 4, 3, 7]));
        check(with(|s| s.filter_thres = Some(0.0)), &PROBABILITIES);
        check(with(|s| s.top_p = Some(0.7)), &only(&[1, 4, 3]));
        check(with(|s| s.top_p = Some(1.0)), &PROBABILITIES);
        check(with(|s| s.min_p = Some(0.19)), &only(&[1, 4, 3, 7, 5]));
        check(with(|s| s.allowed = ids("0,2-3,5-300")), &only(&[0, 2, 3, 5, 6, 7]));
        // Top-p counts the share of what top-k left: 0.6 / 0.85 > 0.65.
        check(with(|s| (s.top_k, s.top_p) = (Some(4), Some(0.65))), &only(&[1, 4]));
        // The temperature comes first: of the squares, 0.16 + 0.04 of 0.2410 are more than 0.8.
        let squares: Vec<f64> = only(&[1, 4]).iter().map(|p| p * p).collect();
        check(with(|s| (s.temperature, s.top_p) = (0.5, Some(0.8))), &squares);
        let squares: Vec<f64> = only(&[1, 4, 3]).iter().map(|p| p * p).collect();
        check(with(|s| (s.temperature, s.min_p) = (0.5, Some(0.1))), &squares);
    }

    #[test]
    fn neighbouring_streams_and_seeds_are_independent() {
        let logits = logits();
        let first = |seed, stream| {
            Sampler::new(Sampling::default(), seed, stream)
                .unwrap()
                .next(&logits)
                .unwrap()
        };
        let (mut by_stream, mut by_seed) = (vec![0; 8], vec![0; 8]);
        let mut pairs = vec![0; 64];
        for number in 0..20_000 {
            by_stream[first(5, number) as usize] += 1;
            by_seed[first(number, 5) as usize] += 1;
            pairs[(first(2 * number, 0) * 8 + first(2 * number, 1)) as usize] += 1;
        }
        check_distribution(&by_stream, &PROBABILITIES);
        check_distribution(&by_seed, &PROBABILITIES);
        let products: Vec<f64> = PROBABILITIES
            .iter()
            .flat_map(|p| PROBABILITIES.map(|q| p * q))
            .collect();
        check_distribution(&pairs, &products);
    }

    /// The numbers are those of numpy's `PCG64DXSM` set to the same state and increment: the sequence is part of the
    /// interface, since a seed names a sample.
    #[test]
    fn random_numbers_are_those_of_numpy() {
        let mut sampler = Sampler::new(Sampling::default(), 7, 3).unwrap();
        let numbers = [(); 4].map(|()| sampler.rng.next_u64());
        let numpy = [
            0xf8ea_ae4c_2704_1f65,
            0xf1f1_33ef_780a_4296,
            0xf77c_f8e3_45f1_326a,
            0xe4e6_100d_eb7f_7ada,
        ];
        assert_eq!(numbers, numpy);
    }

    /// `int((1 - t) * 256)` of Python, at least 1.
    #[test]
    fn filter_thres_keeps_what_the_package_keeps() {
        let kept = [
            (0.0, 256),
            (0.1, 230),
            (0.3, 179),
            (0.7, 76),
            (0.9, 25),
            (0.99, 2),
            (0.995, 1),
            (1.0, 1),
        ];
        for (thres, expected) in kept {
            let sampling = with(|s| s.filter_thres = Some(thres));
            assert_eq!(sampling.kept(256), expected, "{thres}");
        }
    }

    #[test]
    fn greedy_takes_the_lowest_of_the_best() {
        for sampling in [
            Sampling::greedy(),
            with(|s| s.top_k = Some(1)),
            with(|s| s.filter_thres = Some(1.0)),
            with(|s| s.filter_thres = Some(0.9)),
            with(|s| s.top_p = Some(1e-9)),
            with(|s| (s.temperature, s.top_k) = (f64::MIN_POSITIVE, Some(1))),
        ] {
            let mut sampler = Sampler::new(sampling, 0, 0).unwrap();
            assert_eq!(sampler.next(&[-1.0, 2.0, 2.0, f32::NEG_INFINITY]).unwrap(), 1);
            assert_eq!(sampler.next(&[-0.0, 0.0, -1.0]).unwrap(), 0);
        }
    }

    #[test]
    fn top_k_keeps_the_lowest_of_equals() {
        let mut sampler = Sampler::new(with(|s| s.top_k = Some(2)), 0, 0).unwrap();
        let mut counts = vec![0; 5];
        for _ in 0..10_000 {
            counts[sampler.next(&[0.0, -0.0, 0.0, 0.0, -9.0]).unwrap() as usize] += 1;
        }
        check_distribution(&counts, &[0.5, 0.5, 0.0, 0.0, 0.0]);
    }

    #[test]
    fn streams_do_not_influence_one_another() {
        let logits = logits();
        let sampler = |stream| Sampler::new(Sampling::default(), 9, stream).unwrap();
        let alone = [0, 1, 2].map(|stream| {
            let mut sampler = sampler(stream);
            [(); 100].map(|()| sampler.next(&logits).unwrap())
        });
        let mut batch = [2, 0, 1].map(sampler);
        let together = [(); 100].map(|()| batch.each_mut().map(|sampler| sampler.next(&logits).unwrap()));
        for (row, stream) in [2, 0, 1].into_iter().enumerate() {
            assert_eq!(together.map(|step| step[row]), alone[stream]);
        }
        assert_ne!(alone[0], alone[1]);
    }

    #[test]
    fn a_saved_sampler_goes_on() {
        let sampling = with(|s| (s.repetition_penalty, s.repetition_window) = (Some(1.5), 3));
        let mut sampler = Sampler::new(sampling, 9, 1).unwrap();
        let logits = logits();
        for _ in 0..10 {
            sampler.next(&logits).unwrap();
        }
        let saved = serde_json::to_string(&sampler).unwrap();
        let mut restored: Sampler = serde_json::from_str(&saved).unwrap();
        for _ in 0..100 {
            assert_eq!(restored.next(&logits).unwrap(), sampler.next(&logits).unwrap());
        }
        let broken = saved.replace("\"temperature\":1.0", "\"temperature\":-1.0");
        let message = serde_json::from_str::<Sampler>(&broken).unwrap_err().to_string();
        assert!(message.contains("temperature is -1"), "{message}");
    }

    #[test]
    fn repetition_penalty_weakens_recent_ids() {
        let sampling = with(|s| (s.temperature, s.repetition_penalty, s.repetition_window) = (0.0, Some(2.0), 2));
        let mut sampler = Sampler::new(sampling, 0, 0).unwrap();
        let logits = [4.0, 3.0, 2.5, -1.0];
        let chosen = [(); 6].map(|()| sampler.next(&logits).unwrap());
        // 4 → 2 and 3 → 1.5 while they are among the last two.
        assert_eq!(chosen, [0, 1, 2, 0, 1, 2]);
        sampler.observe(&[0, 0, 1, 3, 3, 500]);
        assert_eq!(sampler.recent, [3, 500]);
        // −1 → −2: negative logits are multiplied.
        assert_eq!(
            sampler.next_among(&[-3.0, -2.5, -9.0, -2.0], &TokenSet::all()).unwrap(),
            1
        );
    }

    #[test]
    fn sets_of_a_step_narrow_the_allowed_ids() {
        let mut sampler = Sampler::new(with(|s| s.allowed = ids("2-9")), 0, 0).unwrap();
        for _ in 0..50 {
            assert_eq!(sampler.next_among(&logits(), &ids("0-2,400")).unwrap(), 2);
        }
    }

    #[test]
    fn impossible_choices_are_errors() {
        let check = |logits: &[f32], also: &str, expected: &str| {
            for sampling in [Sampling::default(), Sampling::greedy()] {
                let mut sampler = Sampler::new(sampling, 0, 0).unwrap();
                let message = sampler.next_among(logits, &ids(also)).unwrap_err().to_string();
                assert!(message.contains(expected), "{message}");
            }
        };
        // Also where the id is forbidden: the model is broken.
        check(&[0.0, f32::NAN], "0", "logit of id 1 is NaN");
        check(&[f32::INFINITY, 0.0], "all", "logit of id 0 is inf");
        check(
            &[0.0, 1.0],
            "2-5",
            "the allowed ids are 2-5, and none of them is below 2",
        );
        check(&[f32::NEG_INFINITY, 1.0], "0", "no id can be produced");
        check(&[], "all", "no id can be produced");
    }

    #[test]
    fn options_out_of_range_are_named() {
        let check = |change: fn(&mut Sampling), expected: &str| {
            let message = Sampler::new(with(change), 0, 0).unwrap_err().to_string();
            assert!(message.starts_with(expected), "{message}");
        };
        check(|s| s.temperature = -0.5, "temperature is -0.5: expected 0 (greedy)");
        check(|s| s.temperature = f64::NAN, "temperature is NaN");
        check(|s| s.temperature = f64::INFINITY, "temperature is inf");
        check(|s| s.top_k = Some(0), "top-k is 0");
        check(|s| s.top_p = Some(0.0), "top-p is 0: expected more than 0");
        check(|s| s.top_p = Some(1.01), "top-p is 1.01");
        check(|s| s.min_p = Some(-0.1), "min-p is -0.1: expected 0 to 1");
        check(|s| s.filter_thres = Some(f64::NAN), "filter-thres is NaN");
        check(
            |s| (s.top_k, s.filter_thres) = (Some(2), Some(0.5)),
            "top-k and filter-thres",
        );
        check(|s| s.repetition_penalty = Some(0.0), "repetition-penalty is 0");
        check(|s| s.repetition_window = 0, "repetition-window is 0");
        check(|s| s.allowed = TokenSet::none(), "allowed is empty");
    }

    fn logit() -> impl Strategy<Value = f32> {
        let extreme = prop::sample::select(vec![f32::MAX, f32::MIN, f32::NEG_INFINITY]);
        prop_oneof![3 => -5f32..5.0, 1 => extreme]
    }

    fn options() -> impl Strategy<Value = Sampling> {
        let share = || prop::option::of(prop_oneof![Just(1.0), 0.0f64..=1.0]);
        let temperature = prop_oneof![Just(f64::MIN_POSITIVE), Just(f64::MAX), 0.0f64..5.0];
        (
            temperature,
            prop::option::of(1usize..12),
            share(),
            share(),
            prop::option::of(0.01f64..100.0),
            any::<bool>(),
        )
            .prop_map(
                |(temperature, top_k, share, min_p, repetition_penalty, package)| Sampling {
                    temperature,
                    top_k: top_k.filter(|_| !package),
                    filter_thres: share.filter(|_| package),
                    top_p: share.filter(|&share| share > 0.0),
                    min_p,
                    repetition_penalty,
                    ..Sampling::default()
                },
            )
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        /// Whatever the logits and options: an allowed id, and without a penalty one of the k best.
        #[test]
        fn chooses_among_what_the_filters_leave(
            sampling in options(),
            logits in prop::collection::vec(logit(), 1..12),
            allowed in prop::collection::btree_set(0u32..12, 1..12),
            seed: u64,
        ) {
            let allowed: TokenSet = allowed.into_iter().collect();
            let possible = |id: u32| allowed.contains(id) && logits[id as usize] > f32::NEG_INFINITY;
            let kept = sampling.kept(logits.len());
            let mut sampler = Sampler::new(sampling.clone(), seed, 0)?;
            for _ in 0..5 {
                match sampler.next_among(&logits, &allowed) {
                    Ok(id) => {
                        prop_assert!(possible(id));
                        let is_better = |&other: &u32| possible(other) && logits[other as usize] > logits[id as usize];
                        let better = (0..logits.len() as u32).filter(is_better).count();
                        prop_assert!(sampling.repetition_penalty.is_some() || better < kept);
                    }
                    Err(_) => prop_assert!(!(0..logits.len() as u32).any(possible)),
                }
            }
        }
    }
}
