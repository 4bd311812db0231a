//! What the CUDA kernels share: the device, launches, matrix products.
//!
//! Kernels are compiled to PTX at build time (`build.rs`), one file an operation, and loaded when first called. Every operation
//! runs on the one stream of its device, in the order of the calls, so nothing waits for anything: memory freed by the host is
//! reused by later kernels only. Tensors of activations are `f32` or `bf16`; parameters, their gradients and whatever sums run
//! over are `f32`.

/// The PTX texts that the build made, one constant a file.
#[expect(unreachable_pub, reason = "the build names the constants pub")]
pub(crate) mod ptx {
    include!(concat!(env!("OUT_DIR"), "/ptx.rs"));
}

/// The kernels of the file whose name in capitals this is.
macro_rules! module {
    ($name:ident) => {
        crate::cuda::Module {
            name: stringify!($name),
            ptx: crate::cuda::ptx::$name,
        }
    };
}

mod gemm;
mod launch;
mod rows;

use candle_core::cuda_backend::cudarc::driver::sys;
use candle_core::{D, DType, Device, Result, Shape, Tensor};

pub(crate) use gemm::{Matrix, product, row_stride};
pub(crate) use launch::{Kernel, Module, pointer};
pub(crate) use rows::{RowBlocks, add_columns, add_rows, add_to, sum_sequences};

/// The CUDA device of this number, with a stream of its own, ready for the operations of this crate.
///
/// Memory that tensors give back stays with the process, for the next ones.
pub fn device(ordinal: usize) -> Result<Device> {
    let device = Device::new_cuda_with_stream(ordinal)?;
    let cuda = device.as_cuda_device()?;
    // SAFETY: all work on this device goes through its one stream, which orders it.
    unsafe { cuda.disable_event_tracking() };
    keep_freed_memory(ordinal)?;
    Ok(device)
}

/// Lets the pool of the device keep all freed memory instead of giving it back at every synchronisation.
fn keep_freed_memory(ordinal: usize) -> Result<()> {
    let failed = |error| candle_core::Error::Cuda(Box::new(error)).bt();
    let ordinal = i32::try_from(ordinal).map_err(candle_core::Error::wrap)?;
    let mut device = 0;
    let mut pool = std::ptr::null_mut();
    let mut threshold = u64::MAX;
    // SAFETY: the context of this device is current; each pointer is to a variable of the type that the attribute has.
    unsafe {
        sys::cuDeviceGet(&mut device, ordinal).result().map_err(failed)?;
        sys::cuDeviceGetDefaultMemPool(&mut pool, device)
            .result()
            .map_err(failed)?;
        sys::cuMemPoolSetAttribute(
            pool,
            sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD,
            (&raw mut threshold).cast(),
        )
        .result()
        .map_err(failed)
    }
}

/// Bytes of device memory that are free, and that there are.
pub fn memory(device: &Device) -> Result<(usize, usize)> {
    device.synchronize()?; // which makes the context current
    let failed = |error| candle_core::Error::Cuda(Box::new(error)).bt();
    candle_core::cuda_backend::cudarc::driver::result::mem_get_info().map_err(failed)
}

/// Whether a kernel of ours takes this tensor: `f32` or `bf16`, on a CUDA device.
pub(crate) fn takes(tensor: &Tensor) -> bool {
    tensor.device().is_cuda() && matches!(tensor.dtype(), DType::F32 | DType::BF16)
}

/// A tensor whose elements are still to be written, by a kernel that writes all of them.
pub(crate) fn empty(shape: impl Into<Shape>, dtype: DType, device: &Device) -> Result<Tensor> {
    // SAFETY: the callers launch kernels that write every element before anything reads one.
    unsafe { Tensor::empty(shape, dtype, device) }
}

/// A tensor like this one whose elements are still to be written.
pub(crate) fn empty_like(tensor: &Tensor) -> Result<Tensor> {
    empty(tensor.shape(), tensor.dtype(), tensor.device())
}

/// A tensor (…, columns) whose elements are still to be written, with room between its rows where they would not begin at
/// multiples of 16 bytes: products read and write such rows far faster.
pub(crate) fn empty_rows(outer: &[usize], columns: usize, dtype: DType, device: &Device) -> Result<Tensor> {
    let mut dims = outer.to_vec();
    dims.push(columns.next_multiple_of(8));
    let room = empty(dims, dtype, device)?;
    match columns.is_multiple_of(8) {
        true => Ok(room),
        false => room.narrow(D::Minus1, 0, columns),
    }
}

/// This tensor, or a copy of it whose rows lie at equal distances; and that distance, in elements.
pub(crate) fn with_row_stride(tensor: &Tensor) -> Result<(Tensor, usize)> {
    if let Some(stride) = row_stride(tensor) {
        return Ok((tensor.clone(), stride));
    }
    Ok((tensor.contiguous()?, tensor.dim(D::Minus1)?))
}

/// Blocks of `size` that cover `count`.
pub(crate) fn blocks(count: usize, size: usize) -> usize {
    count.div_ceil(size).max(1)
}
