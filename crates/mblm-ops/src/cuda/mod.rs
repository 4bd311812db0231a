//! The base of the CUDA kernels: the device, launches, matrix products.
//!
//! Kernels are compiled to PTX at build time (`build.rs`), one file per operation, and loaded when
//! first called. Every operation runs on the one stream of its device, in the order of the calls,
//! so nothing has to be synchronized: memory freed by the host is reused by later kernels only.
//! Activations are `f32` or `bf16`; parameters, their gradients and sums are `f32`.

/// The PTX texts from the build, one constant per file.
#[expect(unreachable_pub, reason = "the build names the constants pub")]
pub(crate) mod ptx {
    include!(concat!(env!("OUT_DIR"), "/ptx.rs"));
}

/// The kernels of a file; the argument is the file's name in capitals.
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

/// The CUDA device of this number, with its own stream, ready for this crate's operations.
///
/// The process keeps the memory of freed tensors for later tensors.
pub fn device(ordinal: usize) -> Result<Device> {
    let device = Device::new_cuda_with_stream(ordinal)?;
    let cuda = device.as_cuda_device()?;
    // SAFETY: all work on this device goes through its one stream, which orders it.
    unsafe { cuda.disable_event_tracking() };
    keep_freed_memory(ordinal)?;
    Ok(device)
}

/// Makes the device's pool keep freed memory instead of returning it at every synchronization.
fn keep_freed_memory(ordinal: usize) -> Result<()> {
    let failed = |error| candle_core::Error::Cuda(Box::new(error)).bt();
    let ordinal = i32::try_from(ordinal).map_err(candle_core::Error::wrap)?;
    let mut device = 0;
    let mut pool = std::ptr::null_mut();
    let mut threshold = u64::MAX;
    // SAFETY: the context of this device is current; each pointer is to a variable of the type that
    // the attribute has.
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

/// Free and total bytes of device memory.
pub fn memory(device: &Device) -> Result<(usize, usize)> {
    device.synchronize()?; // makes the context current
    let failed = |error| candle_core::Error::Cuda(Box::new(error)).bt();
    candle_core::cuda_backend::cudarc::driver::result::mem_get_info().map_err(failed)
}

/// Whether this crate's kernels support this tensor: `f32` or `bf16`, on a CUDA device.
pub(crate) fn takes(tensor: &Tensor) -> bool {
    tensor.device().is_cuda() && matches!(tensor.dtype(), DType::F32 | DType::BF16)
}

/// An uninitialized tensor for a kernel that writes all of its elements.
pub(crate) fn empty(shape: impl Into<Shape>, dtype: DType, device: &Device) -> Result<Tensor> {
    // SAFETY: the callers launch kernels that write every element before anything reads one.
    unsafe { Tensor::empty(shape, dtype, device) }
}

/// An uninitialized tensor with the shape, type and device of `tensor`.
pub(crate) fn empty_like(tensor: &Tensor) -> Result<Tensor> {
    empty(tensor.shape(), tensor.dtype(), tensor.device())
}

/// An uninitialized tensor (…, columns) whose rows begin at multiples of 16 bytes.
///
/// Rows are padded if needed: products read and write aligned rows far faster.
pub(crate) fn empty_rows(outer: &[usize], columns: usize, dtype: DType, device: &Device) -> Result<Tensor> {
    let mut dims = outer.to_vec();
    dims.push(columns.next_multiple_of(8));
    let room = empty(dims, dtype, device)?;
    match columns.is_multiple_of(8) {
        true => Ok(room),
        false => room.narrow(D::Minus1, 0, columns),
    }
}

/// `tensor` with equally spaced rows, copied if needed; and the row stride in elements.
pub(crate) fn with_row_stride(tensor: &Tensor) -> Result<(Tensor, usize)> {
    if let Some(stride) = row_stride(tensor) {
        return Ok((tensor.clone(), stride));
    }
    Ok((tensor.contiguous()?, tensor.dim(D::Minus1)?))
}

/// The number of blocks of `size` that cover `count`.
pub(crate) fn blocks(count: usize, size: usize) -> usize {
    count.div_ceil(size).max(1)
}
