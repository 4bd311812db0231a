//! Parallel loops whose result does not depend on the number of threads.
//!
//! Work is cut into chunks of a size that the caller gives, never by the number of threads. Partial
//! sums are added in chunk order.

use std::mem::MaybeUninit;
use std::ops::Range;

use rayon::prelude::*;

use crate::real::Real;
use crate::vector::add_assign;

/// The number of threads that parallel loops and matrix products use.
///
/// The size of this thread's pool if it has one, else `RAYON_NUM_THREADS`, else one thread per
/// core.
pub fn threads() -> usize {
    rayon::current_num_threads()
}

/// Runs `work` on a pool thread, unless the calling thread already is one.
///
/// A thread outside the pool hands over every loop and sleeps until it is done, which costs more
/// than a short loop. So hand over a computation of many loops, such as a decoding step, as a
/// whole. `work` must not wait for another computing thread.
///
/// ```
/// use mblm_gemm::{on_workers, par_map};
///
/// let squares = on_workers(|| par_map(vec![1, 2, 3], true, |_, x| x * x));
/// assert_eq!(squares, [1, 4, 9]);
/// ```
pub fn on_workers<R: Send>(work: impl FnOnce() -> R + Send) -> R {
    match rayon::current_thread_index() {
        Some(_) => work(),
        None => rayon::scope(|_| work()),
    }
}

/// Calls `work(index, chunk)` for the consecutive chunks of `len` elements of `data`, in parallel.
pub fn par_chunks<T: Send>(data: &mut [T], len: usize, work: impl Fn(usize, &mut [T]) + Sync + Send) {
    if data.len() <= len || threads() == 1 {
        let chunks = data.chunks_mut(len.max(1)); // chunks_mut panics on 0
        return chunks.enumerate().for_each(|(index, chunk)| work(index, chunk));
    }
    data.par_chunks_mut(len)
        .enumerate()
        .for_each(|(index, chunk)| work(index, chunk));
}

/// A new vector of `len` elements; `write(index, chunk)` fills each chunk of `chunk`, in parallel.
///
/// The vector is not zeroed first: that would cost a single-threaded pass over memory.
///
/// # Safety
/// `write` writes every element of its chunk.
pub unsafe fn par_new<T: Send>(
    len: usize,
    chunk: usize,
    write: impl Fn(usize, &mut [MaybeUninit<T>]) + Sync + Send,
) -> Vec<T> {
    let mut new = Vec::with_capacity(len);
    par_chunks(&mut new.spare_capacity_mut()[..len], chunk, write);
    // SAFETY: the chunks cover the first `len` elements, and the caller's word is that all have
    // been written.
    unsafe { new.set_len(len) };
    new
}

/// Fills `new` with zeros.
///
/// A task zeroes its own part just before filling it, so the part is already in the cache.
pub fn zeroed<T: Real>(new: &mut [MaybeUninit<T>]) -> &mut [T] {
    new.fill(MaybeUninit::new(T::zero()));
    // SAFETY: all elements have just been written.
    unsafe { &mut *(std::ptr::from_mut(new) as *mut [T]) }
}

/// [`par_new`] of elements that are zero before `work(index, chunk)` changes them.
pub fn par_zeroed<T: Real>(len: usize, chunk: usize, work: impl Fn(usize, &mut [T]) + Sync + Send) -> Vec<T> {
    // SAFETY: `zeroed` writes every element.
    unsafe { par_new(len, chunk, |index, new| work(index, zeroed(new))) }
}

/// `len` zeros; many zeros are written by all threads.
pub fn zeros<T: Real>(len: usize) -> Vec<T> {
    const CHUNK: usize = 1 << 16;
    if len <= 2 * CHUNK {
        return vec![T::zero(); len];
    }
    // SAFETY: `fill` writes every element.
    unsafe { par_new(len, CHUNK, |_, chunk| chunk.fill(MaybeUninit::new(T::zero()))) }
}

/// The results of `work(index, item)` for every item, in order; in parallel if `parallel`.
///
/// Pass `false` for loops too short to be worth waking a thread.
pub fn par_map<A: Send, R: Send>(items: Vec<A>, parallel: bool, work: impl Fn(usize, A) -> R + Sync + Send) -> Vec<R> {
    if !parallel || items.len() <= 1 || threads() == 1 {
        return items.into_iter().enumerate().map(|(i, item)| work(i, item)).collect();
    }
    items
        .into_par_iter()
        .enumerate()
        .map(|(index, item)| work(index, item))
        .collect()
}

/// Consecutive parts of `data` of the given lengths, whose sum must not exceed the length of
/// `data`.
pub fn split<T>(mut data: &mut [T], lengths: impl IntoIterator<Item = usize>) -> Vec<&mut [T]> {
    lengths
        .into_iter()
        .map(|length| {
            let (part, rest) = std::mem::take(&mut data).split_at_mut(length);
            data = rest;
            part
        })
        .collect()
}

/// Sums over ranges: `work(range, partial)` adds to a zeroed `partial`; `to` gets the total.
///
/// The consecutive ranges of `chunk` items cover `0..items`; `partial` has the length of `to`.
pub fn par_reduce<T: Real>(
    items: usize,
    chunk: usize,
    to: &mut [T],
    work: impl Fn(Range<usize>, &mut [T]) + Sync + Send,
) {
    let chunk = chunk.max(1);
    if items <= chunk {
        return work(0..items, to);
    }
    let partials: Vec<Vec<T>> = (0..items.div_ceil(chunk))
        .into_par_iter()
        .map(|index| {
            let mut partial = vec![T::zero(); to.len()];
            work(index * chunk..((index + 1) * chunk).min(items), &mut partial);
            partial
        })
        .collect();
    for partial in &partials {
        add_assign(to, partial);
    }
}
