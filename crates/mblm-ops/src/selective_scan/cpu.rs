//! The CPU kernels of the scan, vectorized over the channels.
//!
//! A state entry of [`LANES`] channels is a few vector registers, so that only the gradients of B
//! and C are summed across a register.
//!
//! A task is a block of [`LANES`] channels of a few sequences. It works on copies of its channels,
//! padded with zeros to [`LANES`]; its results are then copied to rows.

use std::ops::Range;

use candle_core::{Result, Tensor};
use multiversion::multiversion;

use super::{Inputs, Output, Saved};
use crate::cpu::{Real, Slice, from_vec, par_chunks, par_map};

/// Channels of a block.
pub(super) const LANES: usize = 64;

/// One number for each channel of a block.
pub(super) type Lanes<T> = [T; LANES];

/// Positions between two saved states.
pub(super) const SEGMENT: usize = 32;

/// Positions per task, if its sequences are shorter than that; a task then takes several sequences.
const TASK: usize = 256;

/// Rows per task of the loops that copy results.
const ROWS: usize = 32;

/// State elements times positions below which waking other threads does not pay off.
const PARALLEL: usize = 1 << 15;

/// Slices of the inputs, kept alive while a [`Scan`] borrows them.
pub(super) struct Slices<'a, T> {
    u: Slice<'a, T>,
    delta: Slice<'a, T>,
    a_log: Slice<'a, T>,
    b: Slice<'a, T>,
    c: Slice<'a, T>,
    d: Slice<'a, T>,
    z: Slice<'a, T>,
    initial: Option<Slice<'a, T>>,
}

impl<'a, T: Real> Slices<'a, T> {
    pub(super) fn new(inputs: &Inputs<'a>) -> Result<Self> {
        Ok(Self {
            u: Slice::new(inputs.u)?,
            delta: Slice::new(inputs.delta)?,
            a_log: Slice::new(inputs.a_log)?,
            b: Slice::new(inputs.b)?,
            c: Slice::new(inputs.c)?,
            d: Slice::new(inputs.d)?,
            z: Slice::new(inputs.z)?,
            initial: inputs.initial.map(Slice::new).transpose()?,
        })
    }
}

/// The inputs, and how they are cut into tasks; `task` = group · blocks + block.
pub(super) struct Scan<'a, T> {
    pub(super) sequences: usize,
    pub(super) positions: usize,
    pub(super) channels: usize,
    pub(super) state: usize,
    /// The number of blocks of channels.
    pub(super) blocks: usize,
    /// The number of sequences in a group.
    pub(super) group: usize,
    pub(super) parallel: bool,
    pub(super) u: &'a [T],
    pub(super) delta: &'a [T],
    pub(super) z: &'a [T],
    pub(super) b: &'a [T],
    pub(super) c: &'a [T],
    /// A = -exp(a_log) as (blocks, N, LANES); 0 for the padding of the last block.
    pub(super) a: Vec<Lanes<T>>,
    /// D as (blocks, LANES).
    pub(super) d: Vec<Lanes<T>>,
    initial: Option<&'a [T]>,
    pub(super) initial_is_shared: bool,
}

impl<'a, T: Real> Scan<'a, T> {
    pub(super) fn new(inputs: &Inputs, slices: &'a Slices<'_, T>) -> Result<Self> {
        let (sequences, positions, channels) = inputs.u.dims3()?;
        let state = inputs.a_log.dim(1)?;
        let mut scan = Self {
            sequences,
            positions,
            channels,
            state,
            blocks: channels.div_ceil(LANES),
            group: (TASK / positions).max(1),
            parallel: sequences * positions * channels * state > PARALLEL,
            u: &slices.u,
            delta: &slices.delta,
            z: &slices.z,
            b: &slices.b,
            c: &slices.c,
            a: Vec::new(),
            d: Vec::new(),
            initial: slices.initial.as_deref(),
            initial_is_shared: inputs.initial.is_some_and(|initial| initial.dims()[0] == 1),
        };
        let a: Vec<T> = slices.a_log.iter().map(|a_log| -a_log.exp()).collect();
        scan.a = (0..scan.blocks)
            .flat_map(|block| scan.load_state(&a, 0, block))
            .collect();
        scan.d = (0..scan.blocks)
            .map(|block| load(&slices.d, scan.first(block), scan.width(block)))
            .collect();
        Ok(scan)
    }

    pub(super) fn tasks(&self) -> Vec<usize> {
        (0..self.sequences.div_ceil(self.group) * self.blocks).collect()
    }

    /// The sequences and the channel block of a task.
    pub(super) fn place(&self, task: usize) -> (Range<usize>, usize) {
        let first = task / self.blocks * self.group;
        (first..(first + self.group).min(self.sequences), task % self.blocks)
    }

    /// The first channel of a block.
    pub(super) fn first(&self, block: usize) -> usize {
        block * LANES
    }

    /// The number of a block's channels that are not padding.
    pub(super) fn width(&self, block: usize) -> usize {
        LANES.min(self.channels - self.first(block))
    }

    /// The number of saved states per sequence: one before every segment but the first.
    pub(super) fn borders(&self) -> usize {
        self.positions.div_ceil(SEGMENT) - 1
    }

    /// A's block (N, LANES).
    pub(super) fn a(&self, block: usize) -> &[Lanes<T>] {
        &self.a[block * self.state..(block + 1) * self.state]
    }

    /// Rows `rows` (of all sequences) of a tensor of `channels` channels, cut to a block.
    pub(super) fn load_rows(&self, from: &[T], rows: Range<usize>, block: usize) -> Vec<Lanes<T>> {
        rows.map(|row| load(from, row * self.channels + self.first(block), self.width(block)))
            .collect()
    }

    /// A block (N, LANES) of the state of `sequence` in `states` (·, d_i, N).
    pub(super) fn load_state(&self, states: &[T], sequence: usize, block: usize) -> Vec<Lanes<T>> {
        let mut to = vec![[T::zero(); LANES]; self.state];
        let first = (sequence * self.channels + self.first(block)) * self.state;
        let states = states[first..].chunks_exact(self.state).take(self.width(block));
        for (lane, entries) in states.enumerate() {
            for (to, entry) in to.iter_mut().zip(entries) {
                to[lane] = *entry;
            }
        }
        to
    }

    /// The block's state before the first position.
    pub(super) fn load_initial(&self, sequence: usize, block: usize) -> Vec<Lanes<T>> {
        match self.initial {
            Some(initial) => self.load_state(initial, if self.initial_is_shared { 0 } else { sequence }, block),
            None => vec![[T::zero(); LANES]; self.state],
        }
    }

    /// Copies one row (d_i) of the results of a sequence's tasks, block by block.
    ///
    /// `of` selects the tensor (·, `per_sequence`, LANES) from a task's result, `index` the row in
    /// it.
    pub(super) fn lay_out<R>(
        &self,
        results: &[R],
        (sequence, per_sequence, index): (usize, usize, usize),
        of: impl Fn(&R) -> &[Lanes<T>],
        row: &mut [T],
    ) {
        let (group, within) = (sequence / self.group, sequence % self.group);
        for (block, row) in row.chunks_mut(LANES).enumerate() {
            let lanes = &of(&results[group * self.blocks + block])[within * per_sequence + index];
            row.copy_from_slice(&lanes[..row.len()]);
        }
    }

    /// Collects rows (n, t, d_i) from the tasks' results.
    pub(super) fn rows<R: Sync>(&self, results: &[R], of: impl Fn(&R) -> &[Lanes<T>] + Sync + Send) -> Vec<T> {
        let (channels, positions) = (self.channels, self.positions);
        let mut rows = vec![T::zero(); self.sequences * positions * channels];
        par_chunks(&mut rows, ROWS * channels, |chunk, rows| {
            for (offset, row) in rows.chunks_exact_mut(channels).enumerate() {
                let index = chunk * ROWS + offset;
                let place = (index / positions, positions, index % positions);
                self.lay_out(results, place, &of, row);
            }
        });
        rows
    }

    /// Collects states (n, d_i, N) from the tasks' results (sequence, N, LANES).
    pub(super) fn states<R: Sync>(&self, results: &[R], of: impl Fn(&R) -> &[Lanes<T>] + Sync + Send) -> Vec<T> {
        let (channels, state) = (self.channels, self.state);
        let mut states = vec![T::zero(); self.sequences * channels * state];
        par_chunks(&mut states, channels * state, |sequence, states| {
            let mut row = vec![T::zero(); channels];
            for entry in 0..state {
                self.lay_out(results, (sequence, state, entry), &of, &mut row);
                for (entries, value) in states.chunks_exact_mut(state).zip(&row) {
                    entries[entry] = *value;
                }
            }
        });
        states
    }

    /// The segments of a sequence, as ranges of positions.
    pub(super) fn segments(&self) -> impl DoubleEndedIterator<Item = Range<usize>> + ExactSizeIterator {
        let positions = self.positions;
        (0..positions.div_ceil(SEGMENT)).map(move |segment| segment * SEGMENT..((segment + 1) * SEGMENT).min(positions))
    }
}

/// `width` elements from `first` on, padded with zeros.
fn load<T: Real>(from: &[T], first: usize, width: usize) -> Lanes<T> {
    let mut lanes = [T::zero(); LANES];
    lanes[..width].copy_from_slice(&from[first..first + width]);
    lanes
}

/// The results of a task.
///
/// y (positions of its sequences, LANES), the last states (sequences, N, LANES), the states at
/// borders (sequences, borders, N, LANES).
struct Block<T> {
    y: Vec<Lanes<T>>,
    last: Vec<Lanes<T>>,
    borders: Vec<Lanes<T>>,
}

pub(super) fn forward<T: Real>(inputs: &Inputs) -> Result<Output> {
    let slices = Slices::<T>::new(inputs)?;
    let scan = Scan::new(inputs, &slices)?;
    let mut results = par_map(scan.tasks(), scan.parallel, |_, task| forward_block(&scan, task));
    let saved = match scan.borders() {
        0 => Vec::new(),
        borders => results
            .iter_mut()
            .map(|result| {
                let states = std::mem::take(&mut result.borders).into_flattened();
                let sequences = states.len() / (borders * scan.state * LANES);
                from_vec(states, (sequences, borders, scan.state, LANES))
            })
            .collect::<Result<Vec<Tensor>>>()?,
    };
    Ok(Output {
        y: from_vec(scan.rows(&results, |result| &result.y), inputs.u.dims())?,
        last: from_vec(
            scan.states(&results, |result| &result.last),
            (scan.sequences, scan.channels, scan.state),
        )?,
        saved: Saved { borders: saved },
    })
}

fn forward_block<T: Real>(scan: &Scan<T>, task: usize) -> Block<T> {
    let (sequences, block) = scan.place(task);
    let (positions, state) = (scan.positions, scan.state);
    let mut result = Block {
        y: Vec::with_capacity(sequences.len() * positions),
        last: Vec::with_capacity(sequences.len() * state),
        borders: Vec::with_capacity(sequences.len() * scan.borders() * state),
    };
    for sequence in sequences {
        let mut h = scan.load_initial(sequence, block);
        for segment in scan.segments() {
            if segment.start > 0 {
                result.borders.extend_from_slice(&h);
            }
            let rows = sequence * positions + segment.start..sequence * positions + segment.end;
            let mut y = scan.load_rows(scan.u, rows.clone(), block);
            let delta = scan.load_rows(scan.delta, rows.clone(), block);
            let z = scan.load_rows(scan.z, rows.clone(), block);
            let entries = rows.start * state..rows.end * state;
            let (b, c) = (&scan.b[entries.clone()], &scan.c[entries]);
            scan_segment(&mut h, &mut y, &delta, &z, scan.a(block), b, c, &scan.d[block]);
            result.y.append(&mut y);
        }
        result.last.append(&mut h);
    }
    result
}

/// Computes a segment of a block: `h` (N, LANES) becomes the state after it.
///
/// On entry `y` holds u, on return the output.
#[multiversion(targets("x86_64+avx512f+avx512vl+fma", "x86_64+avx2+fma"))]
fn scan_segment<T: Real>(
    h: &mut [Lanes<T>],
    y: &mut [Lanes<T>],
    delta: &[Lanes<T>],
    z: &[Lanes<T>],
    a: &[Lanes<T>],
    b: &[T],
    c: &[T],
    d: &Lanes<T>,
) {
    let state = h.len();
    let entries = b.chunks_exact(state).zip(c.chunks_exact(state));
    for (((u, raw), z), (b, c)) in y.iter_mut().zip(delta).zip(z).zip(entries) {
        let (mut delta, mut drive, mut out) = ([T::zero(); LANES], [T::zero(); LANES], [T::zero(); LANES]);
        for lane in 0..LANES {
            delta[lane] = raw[lane].softplus();
            drive[lane] = delta[lane] * u[lane];
            out[lane] = d[lane] * u[lane];
        }
        for (((h, a), b), c) in h.iter_mut().zip(a).zip(b).zip(c) {
            for lane in 0..LANES {
                h[lane] = (delta[lane] * a[lane]).fast_exp() * h[lane] + drive[lane] * *b;
                out[lane] += h[lane] * *c;
            }
        }
        for lane in 0..LANES {
            u[lane] = out[lane] * z[lane] * z[lane].sigmoid();
        }
    }
}
