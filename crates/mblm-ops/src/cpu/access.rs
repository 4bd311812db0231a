//! Typed access to the data of CPU tensors.

use std::cell::Cell;
use std::marker::PhantomData;
use std::ops::Deref;

use candle_core::{CpuStorage, InplaceOp1, Layout, Result, Shape, Storage, Tensor, WithDType};

use parking_lot::RwLockReadGuard;

use super::Real;

/// The elements of a CPU tensor in row-major order, borrowed when the tensor is contiguous and copied otherwise.
pub struct Slice<'a, T> {
    source: Source<'a>,
    start: usize,
    len: usize,
    marker: PhantomData<T>,
}

enum Source<'a> {
    Borrowed(RwLockReadGuard<'a, Storage>),
    Copied(CpuStorage),
}

impl<'a, T: WithDType> Slice<'a, T> {
    /// Borrows or copies the elements of `tensor`.
    ///
    /// Fails when the tensor is not on the CPU or not of type `T`.
    pub fn new(tensor: &'a Tensor) -> Result<Self> {
        let len = tensor.elem_count();
        let (start, source) = if tensor.is_contiguous() {
            let (storage, layout) = tensor.storage_and_layout();
            (layout.start_offset(), Source::Borrowed(storage))
        } else {
            (
                0,
                Source::Copied(T::to_cpu_storage_owned(tensor.flatten_all()?.to_vec1()?)),
            )
        };
        let slice = Self {
            source,
            start,
            len,
            marker: PhantomData,
        };
        slice.elements()?;
        Ok(slice)
    }

    fn elements(&self) -> Result<&[T]> {
        let storage = match &self.source {
            Source::Borrowed(guard) => match &**guard {
                Storage::Cpu(storage) => storage,
                _ => candle_core::bail!("expected a tensor on the CPU"),
            },
            Source::Copied(storage) => storage,
        };
        Ok(&storage.as_slice::<T>()?[self.start..self.start + self.len])
    }
}

impl<T: WithDType> Deref for Slice<'_, T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        // `new` has read the elements once, and neither the device nor the type of a storage changes.
        self.elements().expect("checked when the slice was made")
    }
}

/// Lets `write` change the elements of a contiguous CPU tensor in place, for every tensor that shares its storage.
///
/// `write` must not read a tensor of the same storage: the storage is locked meanwhile.
pub fn with_slice_mut<T: Real, R>(tensor: &Tensor, write: impl FnOnce(&mut [T]) -> R) -> Result<R> {
    struct Write<F, R, T> {
        write: Cell<Option<F>>,
        result: Cell<Option<R>>,
        marker: PhantomData<T>,
    }
    impl<T: Real, R, F: FnOnce(&mut [T]) -> R> InplaceOp1 for Write<F, R, T> {
        fn name(&self) -> &'static str {
            "with-slice-mut"
        }
        fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> Result<()> {
            let Some((start, end)) = layout.contiguous_offsets() else {
                candle_core::bail!("expected a contiguous tensor, found strides {:?}", layout.stride())
            };
            let elements = &mut T::storage_mut(storage)?[start..end];
            if let Some(write) = self.write.take() {
                self.result.set(Some(write(elements)));
            }
            Ok(())
        }
    }
    let op = Write {
        write: Cell::new(Some(write)),
        result: Cell::new(None),
        marker: PhantomData::<T>,
    };
    tensor.inplace_op1(&op)?;
    match op.result.take() {
        Some(result) => Ok(result),
        None => candle_core::bail!("an in-place operation did not run"),
    }
}

/// A CPU tensor that takes over `data`.
pub fn from_vec<T: WithDType>(data: Vec<T>, shape: impl Into<Shape>) -> Result<Tensor> {
    Tensor::from_vec(data, shape.into(), &candle_core::Device::Cpu)
}
/// Asks the processor to fetch `data` while something else is computed; where it cannot be asked nothing happens.
///
/// For rows that its own foresight does not reach: after every page of memory it begins anew.
#[inline(always)]
pub fn prefetch<T>(data: &[T]) {
    #[cfg(target_arch = "x86_64")]
    for line in data.chunks((64 / size_of::<T>().clamp(1, 64)).max(1)) {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: a prefetch reads nothing and faults nowhere; SSE is part of x86-64.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(line.as_ptr().cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = data;
}
