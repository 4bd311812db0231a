//! Fuzzes data files through the data set `bytes`. The first byte chooses the file's name, and
//! whether bad lines are skipped or the bytes are read as they are; the other bytes are the
//! content.
#![no_main]

use mblm::data::{DatasetArgs, Split};
use mblm::task::TaskRegistry;

const NAMES: [&str; 6] = ["a.txt", "a.gz", "a.zst", "a.jsonl", "a.jsonl.gz", "a.jsonl.zst"];
const SAMPLE: usize = 3;
/// The number of samples that are read at each end.
const SAMPLES: usize = 20;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let Some((&choice, content)) = data.split_first() else {
        return;
    };
    let folder = tempfile::tempdir().expect("a temporary folder");
    let name = NAMES[usize::from(choice & 0x3f) % NAMES.len()];
    let path = folder.path().join(name);
    std::fs::write(&path, content).expect("a small file fits into the temporary folder");
    mblm_fuzz::limited(data.len(), || {
        let mut args = DatasetArgs::new(&path, Split::Train, SAMPLE);
        match name.contains("jsonl") {
            true => {
                args.options.insert("text_field".into(), "text".into());
                args.options
                    .insert("skip_bad_lines".into(), (choice & 0x40 != 0).into());
            }
            false => drop(args.options.insert("raw".into(), (choice & 0x80 != 0).into())),
        }
        args.options.insert("held_out".into(), 0.5.into());
        let registry = TaskRegistry::default();
        for split in [Split::Train, Split::Validation, Split::Test] {
            let args = DatasetArgs { split, ..args.clone() };
            let Ok(Some(set)) = registry.open("bytes", &args) else {
                continue;
            };
            let samples = set.len(0);
            for index in (0..samples.min(SAMPLES)).chain(samples.saturating_sub(SAMPLES)..samples) {
                let sample = set.sample(index, 0).expect("a sample of a data set that opened");
                assert_eq!(sample.ids.len(), SAMPLE);
            }
            assert!(set.sample(samples, 0).is_err(), "one sample beyond the last");
        }
    });
});
