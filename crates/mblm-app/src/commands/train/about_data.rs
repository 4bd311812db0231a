//! The training run's messages about its data: size, share of text and passes at the start; the
//! bits per byte of gzip and zstd at the end.

use std::path::PathBuf;

use mblm::config::{ElementCount, Experiment};
use mblm::data::Dataset;
use mblm::train::TrainingData;

use crate::file_kinds::FileKinds;
use crate::output::grouped;

/// The number of training samples that are examined.
const LOOKED_AT: usize = 64;

/// Returns a line with the size of the training and held-out data and the number of passes, and
/// advice about files that are rarely meant to be read byte by byte.
///
/// # Errors
/// A sample or a file cannot be read.
pub(super) fn lines(data: &TrainingData, experiment: &Experiment) -> mblm::Result<Vec<String>> {
    let train = &experiment.train;
    let decimal = |bytes: u64| indicatif::DecimalBytes(bytes).to_string();
    let held_out: Vec<String> = [("validation", &data.validation), ("test", &data.test)]
        .into_iter()
        .filter_map(|(what, split)| {
            let split = split.as_deref()?;
            Some(format!("{} for {what}{}", decimal(split.bytes()), origin(split)))
        })
        .collect();
    let held_out = match held_out.is_empty() {
        true => "nothing held out".into(),
        false => format!("held out: {}", held_out.join(", ")),
    };
    let samples = data.train.len(0).max(1) as f64;
    let asked = match train.target_elements_strategy {
        ElementCount::Batch => train.target_elements as f64,
        ElementCount::Sequence => train.target_elements as f64 / experiment.params.input_seq_len.max(1) as f64,
    };
    let passes = match asked / samples {
        passes if passes >= 10.0 => grouped(passes.round() as u64),
        passes => format!("{passes:.1}"),
    };
    let files = data.train.files();
    let first = format!(
        "data: {}{} to learn from{}; {held_out}; the run reads the data {passes} times",
        match files.len() {
            0 | 1 => String::new(),
            count => format!("{} files, ", grouped(count as u64)),
        },
        decimal(data.train.bytes()),
        text_share(&*data.train)?.map_or(String::new(), |share| format!(", {:.0} % text", 100.0 * share))
    );
    let spaced: Vec<PathBuf> = (0..files.len().min(LOOKED_AT))
        .map(|place| files[place * files.len() / files.len().min(LOOKED_AT)].clone())
        .filter(|file| file.is_file())
        .collect();
    let advice = FileKinds::of(&spaced)?.advice().into_iter();
    let advice = advice.filter(|advice| !advice.contains(": read decompressed"));
    Ok(std::iter::once(first).chain(advice).collect())
}

/// Returns the files of a split as " (a.txt and 2 more files)"; nothing if the data are not in
/// files.
fn origin(split: &dyn Dataset) -> String {
    let files = split.files();
    // data in memory have no file
    let Some(name) = files
        .first()
        .filter(|file| file.is_file())
        .and_then(|file| file.file_name())
    else {
        return String::new();
    };
    let name = name.to_string_lossy();
    match files.len() - 1 {
        0 => format!(" ({name})"),
        1 => format!(" ({name} and another file)"),
        more => format!(" ({name} and {more} more files)"),
    }
}

/// The share of bytes that are text, in evenly spaced samples; `None` if there are no bytes.
fn text_share(dataset: &dyn Dataset) -> mblm::Result<Option<f64>> {
    let (samples, mut bytes, mut text) = (dataset.len(0), 0, 0);
    let count = samples.min(LOOKED_AT);
    for place in 0..count {
        let found = bytes_of(&dataset.sample(place * samples / count, 0)?.ids);
        bytes += found.len();
        text += text_bytes(&found);
    }
    Ok((bytes > 0).then(|| text as f64 / bytes as f64))
}

/// Returns the ids that are bytes.
fn bytes_of(ids: &[u32]) -> Vec<u8> {
    ids.iter().filter_map(|id| u8::try_from(*id).ok()).collect()
}

/// Counts the bytes of valid UTF-8 without control characters. A character cut at the start or end
/// counts as text.
fn text_bytes(bytes: &[u8]) -> usize {
    let control = |letter: &char| letter.is_control() && !matches!(letter, '\n' | '\r' | '\t' | '\u{c}');
    let mut text = 0;
    for chunk in bytes.utf8_chunks() {
        text += chunk.valid().len() - chunk.valid().chars().filter(control).count();
    }
    let cut = bytes.iter().take_while(|byte| **byte & 0xc0 == 0x80).count().min(3);
    let rest = bytes.utf8_chunks().last().map_or(0, |chunk| chunk.invalid().len());
    (text + cut + rest).min(bytes.len())
}

#[cfg(feature = "compression")]
pub(super) use self::scale::scale;

/// Returns `None`: the feature `compression` is off.
#[cfg(not(feature = "compression"))]
pub(super) fn scale(_: &TrainingData) -> Option<String> {
    None
}

#[cfg(feature = "compression")]
mod scale {
    use mblm::data::Dataset;
    use mblm::train::TrainingData;
    use mblm_formats::compressed::Compression;

    use super::bytes_of;

    /// The maximum size of the training data that compressors read first.
    const MAX_BEFORE: u64 = 32 << 20;
    /// The maximum size of the test data to compress.
    const MAX_DATA: u64 = 1 << 20;

    /// Returns the bits per byte of the test data compressed by gzip and zstd after the training
    /// data, such as "gzip 2.95, zstd 2.22". `None` for data too large to compress in seconds, and
    /// without test data.
    pub(in super::super) fn scale(data: &TrainingData) -> Option<String> {
        let test = data.test.as_deref()?;
        if data.train.bytes() > MAX_BEFORE || test.bytes() > MAX_DATA {
            return None;
        }
        let (before, bytes) = (all(&*data.train)?, all(test)?);
        let of = |compression: Compression| {
            let size = compression.size_after(&before, &bytes).ok()?;
            Some(format!("{compression} {:.2}", 8.0 * size as f64 / bytes.len() as f64))
        };
        Some(format!("{}, {}", of(Compression::Gzip)?, of(Compression::Zstd)?))
    }

    /// Returns the bytes of a split in the order of its samples.
    fn all(dataset: &dyn Dataset) -> Option<Vec<u8>> {
        let mut bytes = Vec::with_capacity(usize::try_from(dataset.bytes()).ok()?);
        for index in 0..dataset.len(0) {
            bytes.extend(bytes_of(&dataset.sample(index, 0).ok()?.ids));
        }
        (!bytes.is_empty()).then_some(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::text_bytes;

    #[test]
    fn text_is_told_from_other_bytes() {
        assert_eq!(text_bytes("naïve text\n".as_bytes()), 12);
        assert_eq!(text_bytes(&"ï".as_bytes()[1..]), 1, "a character cut at the beginning");
        assert_eq!(text_bytes(&"aï".as_bytes()[..2]), 2, "a character cut at the end");
        assert_eq!(text_bytes(b"a\0\0\x01"), 1);
        assert_eq!(text_bytes(b""), 0);
    }
}
