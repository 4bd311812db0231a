//! What the stacks of scan layers have in common: the memory of their states, and the sizes that CUDA kernels take.

use super::cost::{FLOAT, MemoryArgs};

/// Positions of a chunk of a scan, whose state the scan on a GPU keeps.
const CHUNK: f64 = 64.0;

/// Bytes of a layer's state: the scan's in float32 and the last rows before the convolution, `mixed` wide.
pub(super) fn state(args: &MemoryArgs, inner: f64, mixed: f64, states: usize, taps: usize) -> f64 {
    let rows = taps.saturating_sub(1) as f64;
    FLOAT * inner * states as f64 + args.element * rows * mixed
}

/// Bytes for each row of the states between the chunks of a scan.
pub(super) fn row(args: &MemoryArgs, inner: f64, states: usize) -> f64 {
    match args.gpu {
        true => args.element * inner * states as f64 / CHUNK,
        false => 0.0,
    }
}

/// What the CUDA kernels say to a size beyond theirs: what it is of, the size, the largest that they take, its key.
pub(super) fn beyond((what, size, max, key): (&str, usize, usize, &str)) -> Option<String> {
    (size > max).then(|| format!("{what} of {size}: CUDA kernels take up to {max} ({key})"))
}
