//! The chunked form on the CPU.
//!
//! Chunk states, a recurrence over them, then the positions of each chunk from the state before it.

use candle_core::Result;

use super::scan::{MAX_RECURRENT, Scan, Slices};
use super::{Inputs, Output, Saved, Ssd, recurrence};
use crate::cpu::{Real, from_vec, par_map, split, zeros};

pub(super) fn forward<T: Real>(s: &Ssd, inputs: &Inputs) -> Result<Output> {
    let slices = Slices::<T>::new(inputs)?;
    let scan = Scan::new(s, inputs, &slices)?;
    let (y, borders, last) = if scan.pieces == 1 && scan.positions <= MAX_RECURRENT {
        let (y, last) = recurrence::forward(&scan);
        (y, Vec::new(), last)
    } else {
        chunked(&scan)
    };
    let states = (scan.sequences, scan.pieces - 1, s.heads, s.head_dim, s.state);
    let borders = match scan.pieces {
        1 => None,
        _ => Some(from_vec(borders, states)?),
    };
    Ok(Output {
        y: from_vec(y, (scan.sequences, scan.positions, scan.width()))?,
        last: from_vec(last, (scan.sequences, s.heads, s.head_dim, s.state))?,
        saved: Saved { borders },
    })
}

/// y, the states between chunks, and the last states.
fn chunked<T: Real>(scan: &Scan<T>) -> (Vec<T>, Vec<T>, Vec<T>) {
    let (size, inner) = (scan.size(), scan.pieces - 1);
    let steps = scan.steps();
    let mut borders = zeros(scan.sequences * inner * size);
    let mut last = vec![T::zero(); scan.sequences * size];

    par_map(ends(scan, &mut borders, &mut last), true, |task, end| {
        scan.chunk_state(scan.rows(task).0, &steps[task], end);
    });
    let mut by_sequence = ends(scan, &mut borders, &mut last).into_iter();
    let by_sequence = (0..scan.sequences)
        .map(|_| by_sequence.by_ref().take(scan.pieces).collect())
        .collect();
    par_map(by_sequence, true, |sequence, ends: Vec<&mut [T]>| {
        let mut before = scan.initial(sequence);
        for (piece, end) in ends.into_iter().enumerate() {
            if let Some(before) = before {
                steps[sequence * scan.pieces + piece].carry(end, before);
            }
            before = Some(end);
        }
    });

    let mut y = zeros(scan.sequences * scan.positions * scan.width());
    par_map(split(&mut y, scan.lengths(scan.width())), true, |task, y| {
        scan.outputs(task, &steps[task], scan.before(task, &borders), y);
    });
    (y, borders, last)
}

/// The destinations of the states after each task's last row.
///
/// They are in `borders`, or in `last` for the last chunk of a sequence.
fn ends<'b, T: Real>(scan: &Scan<T>, borders: &'b mut [T], last: &'b mut [T]) -> Vec<&'b mut [T]> {
    let (size, inner) = (scan.size(), scan.pieces - 1);
    let mut borders = split(borders, std::iter::repeat_n(size, scan.sequences * inner)).into_iter();
    let mut ends = Vec::with_capacity(scan.tasks());
    for last in split(last, std::iter::repeat_n(size, scan.sequences)) {
        ends.extend(borders.by_ref().take(inner));
        ends.push(last);
    }
    ends
}
