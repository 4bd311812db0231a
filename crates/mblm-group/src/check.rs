//! Checks of the arguments of collectives, with errors that name the call, the expected and the
//! found.

use candle_core::{DType, Result, Tensor, bail};

/// Whether the elements of `tensor` lie one after another in memory.
pub(crate) fn contiguous(call: &str, tensor: &Tensor) -> Result<()> {
    if !tensor.is_contiguous() {
        bail!(
            "{call}: expected a contiguous tensor, found {:?} with strides {:?}; call contiguous() first",
            tensor.dims(),
            tensor.stride()
        );
    }
    Ok(())
}

/// Whether a group moves `tensor`: contiguous; `f32` or `f64` on the CPU, `f32` or `bf16` on a GPU.
pub(crate) fn movable(call: &str, tensor: &Tensor) -> Result<()> {
    contiguous(call, tensor)?;
    match (tensor.device().is_cpu(), tensor.dtype()) {
        (true, DType::F32 | DType::F64) | (false, DType::F32 | DType::BF16) => Ok(()),
        (true, other) => bail!("{call}: expected f32 or f64 on the CPU, found {other:?}"),
        (false, other) => bail!("{call}: expected f32 or bf16 on a GPU, found {other:?}"),
    }
}

/// The length of a block: `tensor` is movable and has one dimension, which `size` divides.
pub(crate) fn block(call: &str, tensor: &Tensor, size: usize) -> Result<usize> {
    let length = flat(call, tensor)?;
    if !length.is_multiple_of(size) {
        bail!(
            "{call}: expected a length that {size} ranks divide, found {length}; pad it to {}",
            length.next_multiple_of(size)
        );
    }
    Ok(length / size)
}

/// The length of `tensor`, which is movable and has one dimension.
pub(crate) fn flat(call: &str, tensor: &Tensor) -> Result<usize> {
    movable(call, tensor)?;
    match tensor.dims() {
        [length] => Ok(*length),
        dims => bail!("{call}: expected one dimension, found {dims:?}; call flatten_all() first"),
    }
}

/// Whether `other` is a rank of the group, and not this one.
pub(crate) fn neighbour(call: &str, rank: usize, size: usize, other: usize) -> Result<()> {
    if other >= size || other == rank {
        bail!(
            "{call}: expected another rank of 0 to {} than {rank}, found {other}",
            size - 1
        );
    }
    Ok(())
}

/// Whether `root` is a rank of the group.
pub(crate) fn root(size: usize, root: usize) -> Result<()> {
    if root >= size {
        bail!("broadcast: expected a root of 0 to {}, found {root}", size - 1);
    }
    Ok(())
}
