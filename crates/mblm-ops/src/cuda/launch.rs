//! Kernel launches: arguments are added by kind, in the order of the kernel's parameters.

use candle_core::backend::BackendStorage;
use candle_core::cuda_backend::cudarc::driver::{
    CudaFunction, DevicePtr, DeviceRepr, LaunchConfig, PushKernelArg, sys,
};
use candle_core::cuda_backend::{CudaStorageSlice, WrapErr};
use candle_core::{CudaDevice, DType, Device, Result, Storage, Tensor};

/// The kernels of one file.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Module {
    /// The name of the file, unique in this crate.
    pub(crate) name: &'static str,
    /// The compiled PTX.
    pub(crate) ptx: &'static str,
}

/// Bytes of dynamic shared memory that every kernel may use without asking.
const SHARED_BY_DEFAULT: usize = 48 << 10;

/// A kernel and its arguments.
///
/// The tensors among the arguments must live until [`launch`](Self::launch) has returned;
/// afterwards the order of the stream protects their memory.
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
    /// The kernel `name` for activations of type `dtype`: `name_f32` or `name_bf16` in its file.
    pub(crate) fn new(device: &Device, module: Module, name: &str, dtype: DType) -> Result<Self> {
        let suffix = match dtype {
            DType::F32 => "f32",
            DType::BF16 => "bf16",
            other => candle_core::bail!("{name}: expected f32 or bf16 on a CUDA device, found {other:?}"),
        };
        Self::untyped(device, module, &format!("{name}_{suffix}"))
    }

    /// The kernel called `name` in its file.
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

    /// Adds a pointer to the elements of a contiguous tensor, to be read or written.
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

    /// Adds a pointer to the first of equally spaced rows; their distance is a separate argument.
    pub(crate) fn strided(mut self, (tensor, _): &(Tensor, usize)) -> Result<Self> {
        self.arguments.push(Argument::Pointer(pointer(tensor)?));
        Ok(self)
    }

    /// Adds a pointer to the elements of a contiguous tensor, or a null pointer.
    pub(crate) fn maybe(mut self, tensor: Option<&Tensor>) -> Result<Self> {
        match tensor {
            Some(tensor) => self.tensor(tensor),
            None => {
                self.arguments.push(Argument::Pointer(0));
                Ok(self)
            }
        }
    }

    /// Adds a pointer to the first element of (n, t, w), whose rows are contiguous, and its
    /// strides.
    ///
    /// The strides are the distances in elements between sequences and between rows, as two
    /// `long long`; the first is 0 if `n` is 1.
    pub(crate) fn rows(mut self, tensor: &Tensor) -> Result<Self> {
        let (sequences, _, width) = tensor.dims3()?;
        let stride = tensor.stride();
        if stride[2] != 1 && width > 1 {
            candle_core::bail!("{}: expected rows in one piece, found {:?}", self.name, tensor.layout());
        }
        self.arguments.push(Argument::Pointer(pointer(tensor)?));
        Ok(self.long(if sequences == 1 { 0 } else { stride[0] }).long(stride[1]))
    }

    /// Like [`rows`](Self::rows), or a null pointer and zeros.
    pub(crate) fn maybe_rows(mut self, tensor: Option<&Tensor>) -> Result<Self> {
        match tensor {
            Some(tensor) => self.rows(tensor),
            None => {
                self.arguments.push(Argument::Pointer(0));
                Ok(self.long(0).long(0))
            }
        }
    }

    /// Adds an `int`.
    pub(crate) fn int(mut self, value: usize) -> Result<Self> {
        let Ok(value) = i32::try_from(value) else {
            candle_core::bail!("{}: expected sizes below 2³¹, found {value}", self.name)
        };
        self.arguments.push(Argument::Int(value));
        Ok(self)
    }

    /// Adds an `int` with these bits.
    pub(crate) fn word(mut self, bits: u32) -> Self {
        self.arguments.push(Argument::Int(bits.cast_signed()));
        self
    }

    /// Adds a `long long`.
    pub(crate) fn long(mut self, value: usize) -> Self {
        // sizes of tensors in memory fit
        self.arguments.push(Argument::Long(value as i64));
        self
    }

    /// Adds a `float`.
    pub(crate) fn float(mut self, value: f64) -> Self {
        self.arguments.push(Argument::Float(value as f32));
        self
    }

    /// Launches `grid` blocks of `block` threads with `shared` bytes of dynamic shared memory.
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
        // SAFETY: the callers pass what the kernel's parameters are, of the sizes that they pass
        // along.
        unsafe { builder.launch(config) }.w()?;
        Ok(())
    }

    /// Launches a kernel whose blocks all run at the same time and may wait for each other.
    ///
    /// The kernel's only parameter is a structure like `argument`.
    ///
    /// # Errors
    /// A device that cannot hold all blocks at once.
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

    /// The configuration of the launch; requests the shared memory if it exceeds the default.
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

/// The size of a grid or a block, x first.
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

/// The device address of a tensor's first element.
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
