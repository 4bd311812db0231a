//! Typed access to the data of CPU tensors, and the number types of the CPU kernels.

use std::cell::Cell;
use std::marker::PhantomData;
use std::ops::Deref;

use candle_core::{CpuStorage, InplaceOp1, Layout, Result, Shape, Storage, Tensor, WithDType};

use parking_lot::RwLockReadGuard;

/// The element types of the CPU kernels: `f32` for work, `f64` for the checks.
pub trait Real: mblm_gemm::Real + WithDType {
    /// The elements of a storage of this type.
    fn storage_mut(storage: &mut CpuStorage) -> Result<&mut [Self]>;
}

impl Real for f32 {
    fn storage_mut(storage: &mut CpuStorage) -> Result<&mut [Self]> {
        match storage {
            CpuStorage::F32(data) => Ok(data),
            _ => candle_core::bail!("expected a tensor of f32"),
        }
    }
}

impl Real for f64 {
    fn storage_mut(storage: &mut CpuStorage) -> Result<&mut [Self]> {
        match storage {
            CpuStorage::F64(data) => Ok(data),
            _ => candle_core::bail!("expected a tensor of f64"),
        }
    }
}

/// The elements of a CPU tensor in row-major order: borrowed if contiguous, else copied.
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
    /// # Errors
    /// A tensor that is not on the CPU or not of type `T`.
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
        // `new` has read the elements once, and neither the device nor the type of a storage
        // changes.
        self.elements().expect("checked when the slice was made")
    }
}

/// Lets `write` change the elements of a contiguous CPU tensor in place.
///
/// The change is visible to every tensor that shares the storage. `write` must not read such a
/// tensor: the storage is locked meanwhile.
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

/// A CPU tensor that takes ownership of `data`.
pub fn from_vec<T: WithDType>(data: Vec<T>, shape: impl Into<Shape>) -> Result<Tensor> {
    Tensor::from_vec(data, shape.into(), &candle_core::Device::Cpu)
}
