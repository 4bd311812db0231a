//! Checks that ids lie inside the table that they select from.

use candle_core::{DType, Result, Tensor};

/// Fails if an id is `limit` or more; the error names the first such id and its position.
///
/// `what` names ids and table in the error. Ids on devices other than the CPU are not checked: that
/// would wait for the device.
pub(crate) fn check(what: &str, ids: &Tensor, limit: usize) -> Result<()> {
    if ids.dtype() != DType::U32 {
        candle_core::bail!(
            "{what}: expected ids of type u32, found {:?}; convert them",
            ids.dtype()
        );
    }
    if ids.elem_count() == 0 || !ids.device().is_cpu() {
        return Ok(());
    }
    let found: Vec<u32> = ids.flatten_all()?.to_vec1()?;
    match found.iter().position(|id| *id as usize >= limit) {
        Some(flat) => Err(out_of_range(what, found[flat], &position(flat, ids.dims()), limit)),
        None => Ok(()),
    }
}

/// The error for an id at `position` that is not below `limit`.
pub(crate) fn out_of_range(what: &str, id: u32, position: &[usize], limit: usize) -> candle_core::Error {
    candle_core::Error::Msg(format!(
        "{what}: id {id} at position {position:?} is outside the table of {limit} rows; expected ids below {limit}: \
         check the vocabulary size and the data"
    ))
    .bt()
}

/// The coordinates of the flat index `flat` in row-major order.
fn position(mut flat: usize, dims: &[usize]) -> Vec<usize> {
    let mut coordinates: Vec<usize> = dims
        .iter()
        .rev()
        .map(|dim| {
            let coordinate = flat % dim;
            flat /= dim;
            coordinate
        })
        .collect();
    coordinates.reverse();
    coordinates
}
