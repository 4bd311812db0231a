//! Fuzzes a split of the data set `clevr`: the questions' JSON, and after a NUL byte the PNG file
//! that every question may name as `a.png`.
#![no_main]

use mblm::data::{Dataset, DatasetArgs, Split};
use mblm_vision::clevr::{Clevr, check};
use mblm_vision::image::Image;

/// The length of a sample; the sample of a small image has fewer ids.
const SAMPLE: usize = 1 << 16;
/// The number of samples that are read.
const SAMPLES: usize = 8;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let end = data.iter().position(|byte| *byte == 0).unwrap_or(data.len());
    let (questions, image) = (&data[..end], data.get(end + 1..).unwrap_or_default());
    let folder = tempfile::tempdir().expect("a temporary folder");
    for name in ["questions", "images/train"] {
        std::fs::create_dir_all(folder.path().join(name)).expect("a folder");
    }
    let file = folder.path().join("questions/CLEVR_train_questions.json");
    std::fs::write(file, questions).expect("a small file fits into the temporary folder");
    std::fs::write(folder.path().join("images/train/a.png"), image).expect("a small file fits as well");
    mblm_fuzz::limited(data.len(), || {
        let decoded = Image::decode(image).is_ok();
        let mut args = DatasetArgs::new(folder.path(), Split::Train, SAMPLE);
        for (key, value) in [
            ("resize_to_w", 5),
            ("resize_to_h", 4),
            ("downsample_channels", 9),
            ("shift_channels_start", 40),
        ] {
            args.options.insert(key.into(), value.into());
        }
        let report = check(&args, 2);
        let Ok(Some(set)) = Clevr::open(&args) else {
            return;
        };
        let sound = matches!(report, Ok(Some(report)) if report.problem_count == 0);
        assert_eq!(sound, decoded, "the check of a set that opens is that of its picture");
        for index in 0..set.len(0).min(SAMPLES) {
            assert_eq!(set.sample(index, 0).is_ok(), decoded, "sample {index}");
        }
    });
});
