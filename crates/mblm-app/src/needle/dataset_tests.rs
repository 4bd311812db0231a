//! Parses samples from their bytes and compares them with the options.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use mblm::data::{Dataset, DatasetArgs, Split};
use mblm::task::TaskRegistry;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

/// The built-in data sets and `needle`.
fn tasks() -> TaskRegistry {
    let mut tasks = TaskRegistry::default();
    register(&mut tasks);
    tasks
}

/// Text without brackets and digits, in which all windows differ.
fn text(len: usize) -> Vec<u8> {
    (0u32..)
        .flat_map(|number| {
            format!("{number:b} ")
                .replace('1', "to")
                .replace('0', "be")
                .into_bytes()
        })
        .take(len)
        .collect()
}

fn options(changes: Value) -> NeedleOptions {
    serde_json::from_value(changes).unwrap()
}

fn task(changes: Value) -> Task {
    Task::new(options(changes)).unwrap()
}

/// A pair parsed from a sample of the default formats.
#[derive(Debug, PartialEq)]
struct Found {
    place: usize,
    key: String,
    value: String,
    query: bool,
}

/// Parses all pairs of a sample, and the text without them.
fn parse(sample: &[u8]) -> (Vec<Found>, Vec<u8>) {
    let sample = std::str::from_utf8(sample).unwrap();
    let (mut pairs, mut text, mut at) = (Vec::new(), String::new(), 0);
    while let Some(begin) = sample[at..].find("[key ") {
        let place = at + begin;
        let end = place + sample[place..].find("]\n").unwrap();
        let inner = &sample[place + 5..end];
        let (key, value) = inner.split_once(": ").or_else(|| inner.split_once("? ")).unwrap();
        text.push_str(&sample[at..place]);
        pairs.push(Found {
            place,
            key: key.into(),
            value: value.into(),
            query: inner.contains('?'),
        });
        at = end + 2;
    }
    text.push_str(&sample[at..]);
    (pairs, text.into_bytes())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn a_sample_holds_what_it_should(
        (needles, queries) in (1usize..9).prop_flat_map(|needles| (Just(needles), 1..=needles)),
        key_len in 2usize..6,
        value_len in 1usize..6,
        room in 1usize..400,
        depth in prop::option::of(0.0..=1.0),
        seed in any::<u64>(),
    ) {
        let task = task(json!({
            "needles": needles, "queries": queries, "key_len": key_len, "value_len": value_len, "depth": depth
        }));
        let (source, len) = (text(1000), task.fixed_len() + room);
        let haystack = Haystack::from_bytes(source.clone());
        let hidden = task.hide(&haystack, len, None, &[seed]).unwrap();
        prop_assert_eq!(hidden.bytes.len(), len);
        prop_assert_eq!(&hidden, &task.hide(&haystack, len, None, &[seed]).unwrap());
        let (pairs, between) = parse(&hidden.bytes);
        // the text is a window of the source
        prop_assert_eq!(between.len(), room);
        prop_assert!(source.windows(room).any(|window| window == between));
        let (hid, asked): (Vec<_>, Vec<_>) = pairs.iter().partition(|pair| !pair.query);
        prop_assert_eq!((hid.len(), asked.len()), (needles, queries));
        prop_assert_eq!(hid.iter().map(|pair| &pair.key).collect::<BTreeSet<_>>().len(), needles);
        prop_assert_eq!(asked.iter().map(|pair| &pair.key).collect::<BTreeSet<_>>().len(), queries);
        for pair in &pairs {
            prop_assert_eq!((pair.key.len(), pair.value.len()), (key_len, value_len));
            prop_assert!(pair.key.bytes().all(|byte| byte.is_ascii_lowercase()));
            prop_assert!(pair.value.bytes().all(|byte| byte.is_ascii_digit()));
            let key = pair.key.as_bytes();
            let found = hidden.bytes.windows(key_len).filter(|window| *window == key).count();
            prop_assert_eq!(found, 1 + asked.iter().filter(|query| query.key == pair.key).count());
        }
        for (pair, range) in hid.iter().zip(&hidden.needles) {
            prop_assert_eq!(pair.place..pair.place + task.needle_len(), range.clone());
        }
        for ((query, needle), answer) in asked.iter().zip(&hidden.asked).zip(&hidden.answers) {
            prop_assert_eq!((&query.key, &query.value), (&hid[*needle].key, &hid[*needle].value));
            prop_assert_eq!(&hidden.bytes[answer.clone()], query.value.as_bytes());
            prop_assert!(answer.start > query.place && answer.end < query.place + task.query_len());
        }
        // the queries are at the end, and the prompt is everything before the last value
        prop_assert_eq!(asked[0].place, len - queries * task.query_len());
        prop_assert_eq!(asked[queries - 1].value.as_bytes(), hidden.answer());
        let query = format!("[key {}? ", asked[queries - 1].key);
        prop_assert!(hidden.prompt().ends_with(query.as_bytes()));
        if let Some(depth) = depth {
            let last = hidden.asked[queries - 1];
            let before = hid[last].place - last * task.needle_len();
            prop_assert_eq!(before, (room as f64 * depth) as usize);
        }
    }

    #[test]
    fn aligned_pairs_begin_at_multiples(depth in 0.0..=1.0, align in prop::sample::select(vec![2usize, 4, 8, 16]), seed: u64) {
        let task = task(json!({"needles": 4, "queries": 2, "align": align}));
        let haystack = Haystack::from_bytes(text(2000));
        let hidden = task.hide(&haystack, 512, Some(depth), &[seed]).unwrap();
        prop_assert!(parse(&hidden.bytes).0.iter().all(|pair| pair.place % align == 0));
    }
}

#[test]
fn random_depths_are_everywhere_and_given_ones_take_their_place() {
    let haystack = Haystack::from_bytes(text(5000));
    let task = task(json!({}));
    let room = (1000 - task.fixed_len()) as f64;
    let depths: Vec<f64> = (0..2000)
        .map(|index| task.hide(&haystack, 1000, None, &[index]).unwrap().needles[0].start as f64 / room)
        .collect();
    // the mean of uniform numbers is 1/2, their mean square 1/3
    let mean = depths.iter().sum::<f64>() / 2000.0;
    let square = depths.iter().map(|depth| depth * depth).sum::<f64>() / 2000.0;
    assert!(
        (mean - 0.5).abs() < 0.03 && (square - 1.0 / 3.0).abs() < 0.03,
        "{mean} {square}"
    );
    let at = |depth| task.hide(&haystack, 1000, Some(depth), &[7]).unwrap();
    for (depth, place) in [(0.0, 0), (0.5, 484), (1.0, 968)] {
        assert_eq!(at(depth).needles[0].start, place);
        // the same text and pair at every depth
        assert_eq!(parse(&at(depth).bytes).1, parse(&at(0.0).bytes).1);
        assert_eq!(at(depth).answer(), at(0.0).answer());
    }
}

fn folder() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("text");
    std::fs::write(&path, text(20_000)).unwrap();
    (folder, path)
}

fn args(path: &Path, split: Split, options: Value) -> DatasetArgs {
    DatasetArgs {
        options: options.as_object().unwrap().clone(),
        seed: 5,
        ..DatasetArgs::new(path, split, 200)
    }
}

fn opened(path: &Path, split: Split, options: Value) -> Arc<dyn Dataset> {
    let args = args(path, split, options);
    tasks().open("needle", &args).unwrap().unwrap()
}

#[test]
fn samples_differ_between_indices_epochs_splits_seeds_and_workers() {
    let (_folder, path) = folder();
    let registry = tasks();
    let mut seen = BTreeSet::new();
    let given = args(&path, Split::Train, json!({}));
    let others = [
        given.clone(),
        DatasetArgs {
            seed: 6,
            ..given.clone()
        },
        DatasetArgs {
            worker: 1,
            workers: 2,
            ..given.clone()
        },
        DatasetArgs {
            split: Split::Validation,
            ..given.clone()
        },
        DatasetArgs {
            split: Split::Test,
            ..given.clone()
        },
    ];
    for args in others {
        let [set, again] = [(); 2].map(|()| registry.open("needle", &args).unwrap().unwrap());
        for (index, epoch) in [(0, 0), (1, 0), (0, 1), (1, 1)] {
            let sample = set.sample(index, epoch).unwrap();
            assert_eq!(sample, again.sample(index, epoch).unwrap());
            assert_eq!(sample.ids.len(), 200);
            assert!(seen.insert(sample.ids), "{args:?} {index} {epoch}");
        }
    }
}

#[test]
fn the_text_of_a_split_is_its_own() {
    let (_folder, path) = folder();
    let source = text(20_000);
    for (split, range) in [
        (Split::Train, 0..18_000),
        (Split::Validation, 18_000..19_000),
        (Split::Test, 19_000..20_000),
    ] {
        let set = opened(&path, split, json!({"held_out": 0.1}));
        assert_eq!((set.bytes(), set.len(0)), (range.len() as u64, range.len() / 200));
        for index in 0..5 {
            let bytes: Vec<u8> = set.sample(index, 0).unwrap().ids.iter().map(|id| *id as u8).collect();
            let (_, between) = parse(&bytes);
            assert!(
                source[range.clone()]
                    .windows(between.len())
                    .any(|window| window == between)
            );
        }
    }
    let none = args(&path, Split::Test, json!({"held_out": 0}));
    assert!(tasks().open("needle", &none).unwrap().is_none());
}

#[test]
fn exactly_the_values_asked_for_are_weighted() {
    let (_folder, path) = folder();
    for (changes, text_weight) in [
        (json!({"needles": 4, "queries": 3}), 0.0),
        (json!({"needles": 4, "queries": 3, "text_weight": 0.25}), 0.25),
    ] {
        let sample = opened(&path, Split::Train, changes).sample(3, 1).unwrap();
        let bytes: Vec<u8> = sample.ids.iter().map(|id| *id as u8).collect();
        let mut expected = vec![text_weight; 200];
        let (pairs, _) = parse(&bytes);
        for query in pairs.iter().filter(|pair| pair.query) {
            expected[query.place + 10..query.place + 14].fill(1.0);
        }
        assert_eq!(sample.loss_weights.unwrap(), expected);
    }
    let all = opened(&path, Split::Train, json!({"loss_on": "all"}));
    assert_eq!(all.sample(0, 0).unwrap().loss_weights, None);
    assert!(all.describe().contains("1 needles and 1 queries"), "{}", all.describe());
}

#[test]
fn a_query_can_be_answered_from_a_later_patch_only() {
    // with 200 bytes the value begins at 194 and the key ends at 191; with 205 bytes, 199 and 196
    let plain = task(json!({}));
    for (len, patch, answerable) in [
        (200, 1, true),
        (200, 2, true),
        (200, 8, true),
        (205, 3, true),
        (205, 4, false),
        (205, 8, false),
        (200, 200, false),
    ] {
        assert_eq!(plain.answerable(len, patch), answerable, "{len} {patch}");
    }
    let aligned = task(json!({"align": 8}));
    assert!((6..50).all(|patches| aligned.answerable(patches * 8, 8)));
    let far = task(json!({"query_format": "[key {key}? It is {value}]\n"}));
    assert!((50..90).all(|len| far.answerable(len, 9)));
}

#[track_caller]
fn refused(changes: Value, parts: &[&str]) {
    let (_folder, path) = folder();
    let args = args(&path, Split::Train, changes.clone());
    let message = match tasks().open("needle", &args) {
        Err(error) => error.to_string(),
        Ok(set) => set.unwrap().sample(0, 0).expect_err("an error").to_string(),
    };
    for part in parts {
        assert!(message.contains(part), "{changes}: {message}");
    }
}

#[test]
fn senseless_options_are_named() {
    refused(
        json!({"needle": 1}),
        &["dataset_args: unknown field `needle`", "`needles`"],
    );
    refused(json!({"needles": 0}), &["needles is 0", "at least one needle"]);
    refused(json!({"queries": 2}), &["needles is 1 and queries is 2"]);
    refused(json!({"key_len": 0}), &["key_len is 0"]);
    refused(json!({"value_len": 0}), &["value_len is 0"]);
    refused(
        json!({"key_alphabet": "a"}),
        &["key_alphabet is \"a\"", "two ASCII characters"],
    );
    refused(json!({"value_alphabet": "011"}), &["value_alphabet", "each once"]);
    refused(json!({"value_alphabet": "aé"}), &["value_alphabet", "ASCII"]);
    refused(
        json!({"needles": 5, "key_len": 1, "key_alphabet": "xyz"}),
        &["only 3 keys", "raise key_len"],
    );
    refused(
        json!({"needle_format": "{value} {key}"}),
        &["needle_format", "{key} and after it {value}"],
    );
    refused(
        json!({"query_format": "{key} {key} {value}"}),
        &["query_format", "each once"],
    );
    refused(json!({"depth": 1.5}), &["depth is 1.5", "0 to 1"]);
    refused(json!({"text_weight": -1.0}), &["text_weight is -1"]);
    refused(
        json!({"text_weight": 0.5, "loss_on": "all"}),
        &["text_weight needs loss_on: answer"],
    );
    refused(json!({"loss_on": "some"}), &["unknown variant `some`", "`answer`"]);
    refused(json!({"align": 0}), &["align is 0"]);
    refused(json!({"align": 5}), &["found 16 bytes", "lengthen needle_format by 4"]);
    refused(
        json!({"align": 16, "query_format": "{key}?{value}"}),
        &["expected a query", "found 8 bytes", "query_format by 8"],
    );
    refused(json!({"held_out": 1}), &["held_out is 1"]);
}

#[test]
fn samples_that_cannot_be_made_say_why() {
    refused(
        json!({"needles": 12}),
        &[
            "a sample of 200 bytes is too short",
            "12 needles of 16 bytes",
            "take 208",
        ],
    );
    let (_folder, path) = folder();
    let of = |args: &DatasetArgs| tasks().open("needle", args).err().unwrap().to_string();
    let unaligned = DatasetArgs {
        sample_len: 201,
        ..args(&path, Split::Train, json!({"align": 8}))
    };
    assert!(
        of(&unaligned).contains("a multiple of align, which is 8"),
        "{}",
        of(&unaligned)
    );
    let long = DatasetArgs {
        sample_len: 1000,
        ..args(&path, Split::Validation, json!({"held_out": 0.05}))
    };
    let message = of(&long);
    for part in ["has 500 bytes of text", "takes 968", "raise held_out"] {
        assert!(message.contains(part), "{message}");
    }
    // all keys of one letter occur in the text
    refused(
        json!({"key_len": 1, "key_alphabet": "to"}),
        &["keys of 1 characters", "raise key_len"],
    );
    // a key of one digit occurs in a value of 60 binary digits
    let digits = json!({"key_len": 1, "key_alphabet": "01", "value_len": 60, "value_alphabet": "01"});
    refused(digits, &["had a key twice", "key_alphabet"]);
    let few = DatasetArgs {
        num_tokens: 100,
        ..args(&path, Split::Train, json!({}))
    };
    let set = tasks().open("needle", &few).unwrap().unwrap();
    let message = set.sample(0, 0).unwrap_err().to_string();
    assert!(message.contains("num_tokens is 100"), "{message}");
    let message = set.sample(set.len(0), 0).unwrap_err().to_string();
    assert!(message.contains("which has 95 samples"), "{message}");
}
