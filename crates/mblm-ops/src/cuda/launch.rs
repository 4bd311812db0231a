//! Launching one kernel: its arguments by kind, in the order of its parameters.

use candle_core::backend::BackendStorage;
use candle_core::cuda_backend::cudarc::driver::{
    CudaFunction, DevicePtr, DeviceRepr, LaunchConfig, PushKernelArg, sys,
};
use candle_core::cuda_backend::{CudaStorageSlice, WrapErr};
use candle_core::{CudaDevice, DType, Device, Result, Storage, Tensor};

/// The kernels of one file.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Module {
    /// Of the file, unique in this crate.
    pub(crate) name: &'static str,
    /// The compiled text.
    pub(crate) ptx: &'static str,
}

/// Dynamic shared memory that every kernel may have without asking, in bytes.
const SHARED_BY_DEFAULT: usize = 48 << 10;

/// A kernel and the arguments gathered for it.
///
/// The tensors of its arguments live at least until [`launch`](Self::launch) has returned: afterwards the stream's order keeps
/// their memory.
pub(crate) struct Kernel {
    device: CudaDevice,
    function: CudaFunction,
    name: String,
    arguments: Vec<Argument>,
}

enum Argument {
    Pointer(u64),
    Int(i32),
    Long(i64),
    Float(f32),
}

impl Kernel {
    /// The kernel `name` for activations of type `dtype`: in the file it is called `name_f32` or `name_bf16`.
    pub(crate) fn new(device: &Device, module: Module, name: &str, dtype: DType) -> Result<Self> {
        let suffix = match dtype {
            DType::F32 => "f32",
            DType::BF16 => "bf16",
            other => candle_core::bail!("{name}: expected f32 or bf16 on a CUDA device, found {other:?}"),
        };
        Self::untyped(device, module, &format!("{name}_{suffix}"))
    }

    /// The kernel that is called `name` in its file.
    pub(crate) fn untyped(device: &Device, module: Module, name: &str) -> Result<Self> {
        let device = device.as_cuda_device()?.clone();
        let function = device.get_or_load_custom_func(name, module.name, module.ptx)?;
        Ok(Self {
            device,
            function: function.into_cuda_function(),
            name: name.to_string(),
            arguments: Vec::with_capacity(16),
        })
    }

    /// Pointer to the elements of a contiguous tensor, to be read or written.
    pub(crate) fn tensor(mut self, tensor: &Tensor) -> Result<Self> {
        if !tensor.is_contiguous() {
            candle_core::bail!(
                "{}: expected a contiguous tensor, found {:?}",
                self.name,
                tensor.layout()
            );
        }
        self.arguments.push(Argument::Pointer(pointer(tensor)?));
        Ok(self)
    }

    /// Pointer to the first element of rows at equal distances, of which the kernel is told.
    pub(crate) fn strided(mut self, (tensor, _): &(Tensor, usize)) -> Result<Self> {
        self.arguments.push(Argument::Pointer(pointer(tensor)?));
        Ok(self)
    }

    /// Pointer to the elements of a contiguous tensor, or a null pointer.
    pub(crate) fn maybe(mut self, tensor: Option<&Tensor>) -> Result<Self> {
        match tensor {
            Some(tensor) => self.tensor(tensor),
            None => {
                self.arguments.push(Argument::Pointer(0));
                Ok(self)
            }
        }
    }

    /// Pointer to the first element of (n, t, w) with rows in one piece, then the distances in elements from one sequence to
    /// the next and from one row to the next, as two `long long`; the first is 0 where `n` is 1.
    pub(crate) fn rows(mut self, tensor: &Tensor) -> Result<Self> {
        let (sequences, _, width) = tensor.dims3()?;
        let stride = tensor.stride();
        if stride[2] != 1 && width > 1 {
            candle_core::bail!("{}: expected rows in one piece, found {:?}", self.name, tensor.layout());
        }
        self.arguments.push(Argument::Pointer(pointer(tensor)?));
        Ok(self.long(if sequences == 1 { 0 } else { stride[0] }).long(stride[1]))
    }

    /// The same, or a null pointer and zeros.
    pub(crate) fn maybe_rows(mut self, tensor: Option<&Tensor>) -> Result<Self> {
        match tensor {
            Some(tensor) => self.rows(tensor),
            None => {
                self.arguments.push(Argument::Pointer(0));
                Ok(self.long(0).long(0))
            }
        }
    }

    /// An `int`.
    pub(crate) fn int(mut self, value: usize) -> Result<Self> {
        let Ok(value) = i32::try_from(value) else {
            candle_core::bail!("{}: expected sizes below 2³¹, found {value}", self.name)
        };
        self.arguments.push(Argument::Int(value));
        Ok(self)
    }

    /// An `int` of these bits.
    pub(crate) fn word(mut self, bits: u32) -> Self {
        self.arguments.push(Argument::Int(bits.cast_signed()));
        self
    }

    /// A `long long`.
    pub(crate) fn long(mut self, value: usize) -> Self {
        // sizes of memory fit
        self.arguments.push(Argument::Long(value as i64));
        self
    }

    /// A `float`.
    pub(crate) fn float(mut self, value: f64) -> Self {
        self.arguments.push(Argument::Float(value as f32));
        self
    }

    /// Puts the kernel into the stream: `grid` blocks of `block` threads with `shared` bytes of dynamic shared memory.
    pub(crate) fn launch(self, grid: impl Into<Dimensions>, block: impl Into<Dimensions>, shared: usize) -> Result<()> {
        let config = self.configure(grid.into(), block.into(), shared)?;
        let stream = self.device.cuda_stream();
        let mut builder = stream.launch_builder(&self.function);
        for argument in &self.arguments {
            match argument {
                Argument::Pointer(value) => builder.arg(value),
                Argument::Int(value) => builder.arg(value),
                Argument::Long(value) => builder.arg(value),
                Argument::Float(value) => builder.arg(value),
            };
        }
        // SAFETY: the callers pass what the kernel's parameters are, of the sizes that they pass along.
        unsafe { builder.launch(config) }.w()?;
        Ok(())
    }

    /// Puts a kernel whose only parameter is a structure like `argument` into the stream: all its blocks run at the same time and
    /// may wait for each other. Fails where the device cannot hold them.
    pub(crate) fn launch_together<T: DeviceRepr>(
        self,
        argument: &T,
        grid: impl Into<Dimensions>,
        block: impl Into<Dimensions>,
        shared: usize,
    ) -> Result<()> {
        let config = self.configure(grid.into(), block.into(), shared)?;
        let stream = self.device.cuda_stream();
        let mut builder = stream.launch_builder(&self.function);
        builder.arg(argument);
        // SAFETY: the callers pass what the kernel's parameter is.
        unsafe { builder.launch_cooperative(config) }.w()?;
        Ok(())
    }

    /// The launch's sizes, with leave for as much shared memory.
    fn configure(&self, grid: Dimensions, block: Dimensions, shared: usize) -> Result<LaunchConfig> {
        let (Dimensions(grid), Dimensions(block)) = (grid, block);
        let narrow = |value: usize| -> Result<u32> { u32::try_from(value).map_err(candle_core::Error::wrap) };
        let each = |d: [usize; 3]| -> Result<(u32, u32, u32)> { Ok((narrow(d[0])?, narrow(d[1])?, narrow(d[2])?)) };
        if shared > SHARED_BY_DEFAULT {
            let attribute = sys::CUfunction_attribute_enum::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            let size = i32::try_from(shared).map_err(candle_core::Error::wrap)?;
            self.function.set_attribute(attribute, size).w()?;
        }
        Ok(LaunchConfig {
            grid_dim: each(grid)?,
            block_dim: each(block)?,
            shared_mem_bytes: narrow(shared)?,
        })
    }
}

/// Sizes of a grid or a block, x first.
pub(crate) struct Dimensions([usize; 3]);

impl From<usize> for Dimensions {
    fn from(x: usize) -> Self {
        Self([x, 1, 1])
    }
}

impl From<(usize, usize)> for Dimensions {
    fn from((x, y): (usize, usize)) -> Self {
        Self([x, y, 1])
    }
}

impl From<(usize, usize, usize)> for Dimensions {
    fn from((x, y, z): (usize, usize, usize)) -> Self {
        Self([x, y, z])
    }
}

/// Where the first element of a tensor lies on its device.
pub(crate) fn pointer(tensor: &Tensor) -> Result<u64> {
    let (storage, layout) = tensor.storage_and_layout();
    let Storage::Cuda(storage) = &*storage else {
        candle_core::bail!("expected a tensor on a CUDA device, found one on {:?}", tensor.device())
    };
    let stream = storage.device().cuda_stream();
    let start = match &storage.slice {
        CudaStorageSlice::U8(slice) => slice.device_ptr(&stream).0,
        CudaStorageSlice::U32(slice) => slice.device_ptr(&stream).0,
        CudaStorageSlice::I64(slice) => slice.device_ptr(&stream).0,
        CudaStorageSlice::BF16(slice) => slice.device_ptr(&stream).0,
        CudaStorageSlice::F32(slice) => slice.device_ptr(&stream).0,
        CudaStorageSlice::F64(slice) => slice.device_ptr(&stream).0,
        _ => candle_core::bail!("no kernel takes tensors of {:?}", tensor.dtype()),
    };
    Ok(start + (layout.start_offset() * tensor.dtype().size_in_bytes()) as u64)
}
