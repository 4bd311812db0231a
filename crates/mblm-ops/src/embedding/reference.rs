//! The reference implementation: candle's selection of rows.

use candle_core::{Result, Tensor};

/// The rows that `ids` select, differentiable by candle.
pub(crate) fn forward(ids: &Tensor, table: &Tensor) -> Result<Tensor> {
    let shape: Vec<usize> = ids.dims().iter().copied().chain([table.dim(1)?]).collect();
    table.index_select(&ids.flatten_all()?, 0)?.reshape(shape) // (ids, d) to (…, d)
}
