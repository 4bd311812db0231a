//! Common code of the scan stacks: memory of their states, and size limits of the CUDA kernels.

use super::cost::{FLOAT, MemoryArgs};

/// Positions of a scan chunk, whose state the scan on a GPU keeps.
const CHUNK: f64 = 64.0;

/// Bytes of a layer's state: the float32 scan state, and `mixed`-wide rows before the convolution.
pub(super) fn state(args: &MemoryArgs, inner: f64, mixed: f64, states: usize, taps: usize) -> f64 {
    let rows = taps.saturating_sub(1) as f64;
    FLOAT * inner * states as f64 + args.element * rows * mixed
}

/// Bytes per row of the states between the chunks of a scan.
pub(super) fn row(args: &MemoryArgs, inner: f64, states: usize) -> f64 {
    match args.gpu {
        true => args.element * inner * states as f64 / CHUNK,
        false => 0.0,
    }
}

/// The message for a size beyond the CUDA kernels' limit: (subject, size, limit, key).
pub(super) fn beyond((what, size, max, key): (&str, usize, usize, &str)) -> Option<String> {
    (size > max).then(|| format!("{what} of {size}: CUDA kernels take up to {max} ({key})"))
}
