//! Growable memory for slots of a state that gain rows, such as keys and values.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use candle_core::Tensor;

use crate::Result;

/// Memory for the rows of a slot, with spare capacity.
///
/// Clones of a state share it: each uses its own prefix, and the first to append takes the rows
/// after the prefix. Rows never change once taken.
#[derive(Clone, Debug)]
pub(super) struct Room {
    /// (n, capacity, w), contiguous.
    pub(super) rows: Tensor,
    /// The number of rows taken by any state.
    pub(super) taken: Arc<AtomicUsize>,
}

impl Room {
    /// Copies rows (n or 1, s, w) to memory with capacity for `added` more and half as many again.
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

    /// The capacity to allocate for `rows` rows.
    pub(super) fn capacity(rows: usize) -> usize {
        rows * 3 / 2 + 8
    }

    /// Takes `added` rows after the caller's first `len`; false if full or taken by another state.
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

    /// Appends `rows` to the caller's first `len`; `None` if full or taken by another state.
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

/// The shape (n, added, w) of rows to append.
#[derive(Clone, Copy, Debug)]
pub(super) struct AddedRows {
    pub(super) sequences: usize,
    pub(super) added: usize,
    pub(super) width: usize,
}

/// The place of a slot's next row, for an operation that writes it: see [`State::next_rows`].
pub(crate) struct NextRow {
    /// The rows so far (n or 1, s, w), if there are any.
    pub(crate) past: Option<Tensor>,
    /// Whether `past` is outside the room and has to be copied into it.
    pub(crate) moves: bool,
    pub(super) room: Room,
}

impl NextRow {
    /// (n, more than s, w), contiguous: the caller writes row s, and the rows before it if `moves`.
    pub(crate) fn room(&self) -> &Tensor {
        &self.room.rows
    }
}
