//! The kernel for CUDA devices.

use candle_core::{Result, Tensor};

use super::Dropout;
use crate::cuda::{self, Kernel, Module};

const MODULE: Module = module!(DROPOUT);

pub(super) fn apply(x: &Tensor, dropout: &Dropout) -> Result<Tensor> {
    let x = x.contiguous()?;
    let y = cuda::empty_like(&x)?;
    let count = x.elem_count() as u64;
    let mut begin = 0;
    while begin < count {
        let index = dropout.first.wrapping_add(begin);
        // up to the next multiple of 2³², where the keys change
        let run = (count - begin).min((1 << 32) - (index & 0xffff_ffff));
        let [k0, k1] = dropout.keys(index);
        Kernel::new(x.device(), MODULE, "drop", x.dtype())?
            .tensor(&x)?
            .tensor(&y)?
            .long(begin as usize)
            .long(run as usize)
            .word(index as u32)
            .word(k0)
            .word(k1)
            .word(dropout.threshold())
            .float(dropout.scale())
            .launch(cuda::blocks(run as usize, 256).min(1 << 15), 256, 0)?;
        begin += run;
    }
    Ok(y)
}
