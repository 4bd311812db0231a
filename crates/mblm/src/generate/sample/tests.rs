//! Tests of `sample.rs`.

use proptest::prelude::*;

use super::*;

/// The model's distribution in most tests: 8 ids.
const PROBABILITIES: [f64; 8] = [0.04, 0.4, 0.01, 0.15, 0.2, 0.08, 0.02, 0.1];

fn logits() -> Vec<f32> {
    PROBABILITIES.iter().map(|&p| libm::log(p) as f32 + 3.0).collect()
}

/// The default options with one change.
fn with(change: impl FnOnce(&mut Sampling)) -> Sampling {
    let mut sampling = Sampling::default();
    change(&mut sampling);
    sampling
}

fn ids(allowed: &str) -> TokenSet {
    allowed.parse().unwrap()
}

/// Pearson's χ² test of counts against exact probabilities, at a level of 10⁻⁵ (the seed is fixed);
/// ids of probability 0 must not occur. The bound is Wilson and Hilferty's approximation.
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
    // Top-p applies to the probabilities after top-k: 0.6 / 0.85 > 0.65.
    check(with(|s| (s.top_k, s.top_p) = (Some(4), Some(0.65))), &only(&[1, 4]));
    // The temperature applies first: of the squares, 0.16 + 0.04 of 0.2410 are more than 0.8.
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

/// The numbers of numpy's `PCG64DXSM` with the same state and increment: part of the interface,
/// since a seed names a sample.
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
    // also for a forbidden id: the model is broken
    check(
        &[0.0, f32::NAN],
        "0",
        "logit of id 1: the model's output is not finite (NaN)",
    );
    check(
        &[f32::INFINITY, 0.0],
        "all",
        "logit of id 0: the model's output is not finite (inf)",
    );
    check(
        &[0.0, 1.0],
        "2-5",
        "the allowed ids are 2-5, and none of them is below 2",
    );
    check(&[f32::NEG_INFINITY, 1.0], "0", "no id can be generated");
    check(&[], "all", "no id can be generated");
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

    /// For any logits and options: an allowed id, and without a penalty one of the k best.
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
