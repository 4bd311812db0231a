//! Memory for slots of a state that grow row by row, as keys and values do.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use candle_core::Tensor;

use crate::Result;

/// Memory for the rows of a slot and for more after them.
///
/// Several states may share one, as clones do: each sees its own beginning of it, and whoever comes first takes the rows behind
/// that. Rows that were taken never change.
#[derive(Clone, Debug)]
pub(super) struct Room {
    /// (n, capacity, w), contiguous.
    pub(super) rows: Tensor,
    /// Rows that some state has taken.
    pub(super) taken: Arc<AtomicUsize>,
}

impl Room {
    /// Room for rows (n or 1, s, w) of `sequences` sequences and `added` more, and half as many again; and those rows in it.
    pub(super) fn new(past: &Tensor, sequences: usize, added: usize) -> Result<(Self, Tensor)> {
        let (_, len, width) = past.dims3()?;
        let capacity = Self::capacity(len + added);
        let rows = Tensor::zeros((sequences, capacity, width), past.dtype(), past.device())?;
        let past = past.broadcast_as((sequences, len, width))?;
        rows.slice_set(&past.contiguous()?, 1, 0)?;
        let kept = rows.narrow(1, 0, len)?;
        let taken = Arc::new(AtomicUsize::new(len));
        Ok((Self { rows, taken }, kept))
    }

    /// Rows that memory for `rows` of them has in all.
    pub(super) fn capacity(rows: usize) -> usize {
        rows * 3 / 2 + 8
    }

    /// Takes rows (n, added, w) after the first `len`, which are the caller's, unless there is no room, or another state has
    /// taken them.
    pub(super) fn take(&self, added: AddedRows, len: usize) -> Result<bool> {
        let (n, capacity, w) = self.rows.dims3()?;
        let AddedRows {
            sequences,
            added,
            width,
        } = added;
        if (n, w) != (sequences, width) || len + added > capacity {
            return Ok(false);
        }
        let taken = self
            .taken
            .compare_exchange(len, len + added, Ordering::Relaxed, Ordering::Relaxed);
        Ok(taken.is_ok())
    }

    /// The first `len` rows, which are the caller's, with `rows` after them; `None` when there is no room, or another state has
    /// taken it.
    pub(super) fn append(&self, rows: &Tensor, len: usize) -> Result<Option<Tensor>> {
        let (sequences, added, width) = rows.dims3()?;
        let shape = AddedRows {
            sequences,
            added,
            width,
        };
        if !self.take(shape, len)? {
            return Ok(None);
        }
        self.rows.slice_set(&rows.contiguous()?, 1, len)?;
        Ok(Some(self.rows.narrow(1, 0, len + added)?))
    }
}

/// The shape (n, added, w) of rows that are put after others.
#[derive(Clone, Copy, Debug)]
pub(super) struct AddedRows {
    pub(super) sequences: usize,
    pub(super) added: usize,
    pub(super) width: usize,
}

/// Where one more row of a slot goes, whoever writes it: see [`State::next_rows`].
pub(crate) struct NextRow {
    /// The rows so far (n or 1, s, w), if there are any.
    pub(crate) past: Option<Tensor>,
    /// Whether those are elsewhere, so that they have to be copied into the room.
    pub(crate) moves: bool,
    pub(super) room: Room,
}

impl NextRow {
    /// (n, more than s, w), contiguous: row s and those after it are to be written.
    pub(crate) fn room(&self) -> &Tensor {
        &self.room.rows
    }
}
