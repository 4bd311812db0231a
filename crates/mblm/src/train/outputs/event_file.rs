//! TensorBoard's event files: records of protobuf messages, each with checksums.
//!
//! ```text
//! file      record of Event { wall_time, file_version: "brain.Event:2" }, one record per event
//! record    u64 length, u32 mask(crc of the 8 bytes before), data, u32 mask(crc of data);
//!           little endian
//! mask(c)   (c rotated right by 15) + 0xa282ead8, c a CRC-32C
//! Event     1: double wall_time (seconds since 1970), 2: int64 step, 3: string file_version,
//!           5: Summary
//! Summary   1: repeated Value;  Value  1: string tag, 2: float simple_value
//! ```
//!
//! Five fields of three messages need no protobuf library: a field is `number << 3 | type`, value.

use std::path::Path;

/// The prefix of event file names; the creation time follows.
pub(super) const PREFIX: &str = "events.out.tfevents.";

/// The suffix of this program's event files, where others name the machine.
const SUFFIX: &str = ".mblm";

/// The name of an event file created at `second` since 1970.
pub(super) fn name(second: u64) -> String {
    format!("{PREFIX}{second}{SUFFIX}")
}

/// The newest event file of this program in a folder.
pub(super) fn newest(folder: &Path) -> Option<String> {
    let names = std::fs::read_dir(folder).ok()?.filter_map(|entry| {
        let name = entry.ok()?.file_name().into_string().ok()?;
        let second = name.strip_prefix(PREFIX)?.strip_suffix(SUFFIX)?.parse::<u64>().ok()?;
        Some((second, name))
    });
    Some(names.max()?.1)
}

/// The first record of a file.
pub(super) fn version_record(wall_time: f64) -> Vec<u8> {
    let mut event = double_field(1, wall_time);
    event.extend(bytes_field(3, b"brain.Event:2"));
    record(&event)
}

/// A record of values at a step.
pub(super) fn scalars_record(wall_time: f64, step: u64, scalars: &[(&str, f64)]) -> Vec<u8> {
    let mut summary = Vec::new();
    for (tag, value) in scalars {
        let mut field = bytes_field(1, tag.as_bytes());
        field.push(2 << 3 | 5);
        field.extend((*value as f32).to_le_bytes());
        summary.extend(bytes_field(1, &field));
    }
    let mut event = double_field(1, wall_time);
    event.push(2 << 3);
    event.extend(varint(step));
    event.extend(bytes_field(5, &summary));
    record(&event)
}

/// The length of the complete, undamaged records at the beginning of `bytes`.
pub(super) fn whole_records(bytes: &[u8]) -> usize {
    let mut end = 0;
    while let Some(length) = record_length(&bytes[end..]) {
        end += length;
    }
    end
}

/// The length of the first record of `bytes`, if it is complete and undamaged.
fn record_length(bytes: &[u8]) -> Option<usize> {
    let (head, rest) = bytes.split_at_checked(8)?;
    let length = usize::try_from(u64::from_le_bytes(head.try_into().ok()?)).ok()?;
    let (head_sum, rest) = rest.split_at_checked(4)?;
    let (data, rest) = rest.split_at_checked(length)?;
    let (data_sum, _) = rest.split_at_checked(4)?;
    let undamaged = checksum(head) == head_sum && checksum(data) == data_sum;
    undamaged.then_some(length + 16)
}

fn record(data: &[u8]) -> Vec<u8> {
    let length = (data.len() as u64).to_le_bytes();
    [&length[..], &checksum(&length), data, &checksum(data)].concat()
}

fn checksum(data: &[u8]) -> [u8; 4] {
    crc32c::crc32c(data)
        .rotate_right(15)
        .wrapping_add(0xa282_ead8)
        .to_le_bytes()
}

fn double_field(number: u8, value: f64) -> Vec<u8> {
    let mut field = vec![number << 3 | 1];
    field.extend(value.to_le_bytes());
    field
}

fn bytes_field(number: u8, value: &[u8]) -> Vec<u8> {
    let mut field = vec![number << 3 | 2];
    field.extend(varint(value.len() as u64));
    field.extend(value);
    field
}

/// Seven bits per byte, low bits first; the high bit means that more follow.
fn varint(mut value: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while value >= 0x80 {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// Compares records with those of TensorBoard's own `RecordWriter`.
    #[test]
    fn records_are_those_of_tensorboard() {
        assert_eq!(
            hex(&version_record(1.5)),
            "1800000000000000a37f4b2209000000000000f83f1a0d627261696e2e4576656e743a322a28646c"
        );
        let scalars = [("loss/train", 0.25), ("learning_rate", 0.001)];
        assert_eq!(
            hex(&scalars_record(1.5, 300, &scalars)),
            "3700000000000000e7e8ca5909000000000000f83f10ac022a290a110a0a6c6f73732f747261696e150000803e0a140a0d\
             6c6561726e696e675f72617465156f12833a734ffde4"
        );
    }

    #[test]
    fn numbers_have_as_many_bytes_as_they_need() {
        assert_eq!(varint(0), [0]);
        assert_eq!(varint(127), [127]);
        assert_eq!(varint(300), [0xac, 0x02]); // the example of the format's documentation
        assert_eq!(varint(u64::MAX).len(), 10);
    }

    #[test]
    fn torn_and_damaged_records_are_not_whole() {
        let first = version_record(1.0);
        let all = [first.clone(), scalars_record(2.0, 1, &[("loss", 0.5)])].concat();
        assert_eq!(whole_records(&all), all.len());
        for cut in 0..all.len() {
            let expected = if cut < first.len() { 0 } else { first.len() };
            assert_eq!(whole_records(&all[..cut]), expected, "{cut}");
        }
        for damaged in 0..all.len() {
            let mut bytes = all.clone();
            bytes[damaged] ^= 0x10;
            let expected = if damaged < first.len() { 0 } else { first.len() };
            assert_eq!(whole_records(&bytes), expected, "{damaged}");
        }
        assert_eq!(whole_records(&[0xff; 40]), 0);
    }
}
