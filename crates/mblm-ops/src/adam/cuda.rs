//! The kernels for CUDA devices.

use candle_core::{DType, Result, Tensor};

use super::{Factors, Parameter, Sums};
use crate::GradBuffer;
use crate::cuda::{self, Kernel, Module};

const MODULE: Module = module!(ADAM);

const THREADS: usize = 256;
/// Blocks that fill a large GPU.
const ENOUGH_BLOCKS: usize = 132 * 8;

/// Whether the kernels support this tensor.
pub(super) fn takes(tensor: &Tensor) -> bool {
    tensor.device().is_cuda() && tensor.dtype() == DType::F32
}

/// The sums over each buffer, copied to the host at once; all buffers are on one device.
pub(super) fn sums(gradients: &[&GradBuffer]) -> Result<Vec<Sums>> {
    let mut parts = Vec::with_capacity(gradients.len());
    for gradient in gradients {
        let tensor = gradient.tensor();
        let blocks = cuda::blocks(tensor.elem_count(), 16 * THREADS).min(ENOUGH_BLOCKS);
        let partial = cuda::empty((blocks, 2), DType::F64, tensor.device())?;
        Kernel::untyped(tensor.device(), MODULE, "sums_of_gradient")?
            .tensor(tensor)?
            .tensor(&partial)?
            .long(tensor.elem_count())
            .launch(blocks, THREADS, 0)?;
        parts.push(partial);
    }
    let all = match parts.as_slice() {
        [] => return Ok(Vec::new()),
        parts => Tensor::cat(parts, 0)?.to_vec2::<f64>()?,
    };
    let mut rows = all.iter();
    let sums = parts.iter().map(|part| {
        let mut sums = Sums::default();
        for row in rows.by_ref().take(part.dims()[0]) {
            sums.plain += row[0];
            sums.squares += row[1];
        }
        sums
    });
    Ok(sums.collect())
}

/// One step of one parameter.
pub(super) fn step(factors: &Factors, parameter: &Parameter<'_>) -> Result<()> {
    let Parameter { value, gradient, m, v } = parameter;
    let count = value.elem_count();
    Kernel::untyped(value.device(), MODULE, "adam_step")?
        .tensor(value)?
        .tensor(gradient.tensor())?
        .tensor(m)?
        .tensor(v)?
        .long(count)
        .float(factors.beta1)
        .float(factors.beta2)
        .float(factors.eps)
        .float(factors.gradient_scale)
        .float(factors.keep)
        .float(factors.rate)
        .float(factors.root)
        .launch(cuda::blocks(count, THREADS).min(ENOUGH_BLOCKS), THREADS, 0)
}
