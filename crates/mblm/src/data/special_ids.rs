//! Special ids that are also bytes of the data: they count as padding or masks, never learned.

use std::ops::Range;

use super::dataset::DatasetArgs;
use super::source::ByteSource;
use crate::Result;

/// The number of pieces that are sampled, at even distances; each is this long.
const PIECES: u64 = 256;
const PIECE: u64 = 4096;

/// Warns if the padding or mask id of a model is a byte of the data.
///
/// # Errors
/// Data that cannot be read.
pub(super) fn warn_of_bytes(source: &dyn ByteSource, bytes: Range<u64>, args: &DatasetArgs) -> Result<()> {
    let mask = args
        .masking
        .map(|masking| ("mask_token_id", masking.mask_token_id, "stands for a masked byte"));
    let pad = ("pad_token_id", args.pad_token_id, "is left out of every loss");
    let special: Vec<_> = std::iter::once(pad)
        .chain(mask)
        .filter(|(_, id, _)| *id < 256)
        .collect();
    if special.is_empty() {
        return Ok(());
    }
    let (counts, read) = count(source, bytes)?;
    for (key, id, what) in special {
        let share = counts[id as usize] as f64 / read.max(1) as f64;
        if share > 0.0 {
            tracing::warn!(
                "{key} is {id}, a byte that occurs in the data ({:.2} % of the {read} bytes inspected): it {what}, so \
                 the model never learns to predict it; set num_tokens to 257 or more and {key} to an id above 255",
                share * 100.0
            );
        }
    }
    Ok(())
}

/// Counts each byte in sampled pieces of the data; also returns the number of bytes sampled.
fn count(source: &dyn ByteSource, bytes: Range<u64>) -> Result<([u64; 256], u64)> {
    let (mut counts, mut read) = ([0; 256], 0);
    let total = bytes.end - bytes.start;
    let pieces = total.div_ceil(PIECE).min(PIECES);
    let mut buffer = vec![0; PIECE as usize];
    for piece in 0..pieces {
        // exact for totals below 2^56
        let first =
            bytes.start + (total.saturating_sub(PIECE) as u128 * piece as u128 / (pieces - 1).max(1) as u128) as u64;
        let len = PIECE.min(bytes.end - first);
        let part = &mut buffer[..len as usize];
        source.read(first, part)?;
        part.iter().for_each(|byte| counts[usize::from(*byte)] += 1);
        read += len;
    }
    Ok((counts, read))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_counted_in_the_range_alone() {
        let text: Vec<u8> = [&b"xx"[..], &[b' '; 10_000], b"yy"].concat();
        let (counts, read) = count(&text, 2..10_002).unwrap();
        assert_eq!(counts[usize::from(b' ')], read);
        assert!(read >= 10_000, "all of it, as there is little");
        assert_eq!(count(&text, 0..2).unwrap().0[usize::from(b'x')], 2);
        assert_eq!(count(&text, 5..5).unwrap().1, 0);
        let many = vec![7u8; 3 << 20];
        assert_eq!(count(&many, 0..3 << 20).unwrap().1, PIECES * PIECE);
    }
}
