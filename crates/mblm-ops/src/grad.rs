//! A buffer to which parameter gradients are added in place.

use candle_core::{DType, Device, Result, Shape, Tensor};

use crate::cpu::{self, Real};

/// The gradient of one parameter: a contiguous tensor that backward passes add to.
///
/// The buffer has the accumulation type (`f32` in training, `f64` in tests), whatever the type of
/// the activations.
#[derive(Debug)]
pub struct GradBuffer {
    sum: Tensor,
    touched: bool,
}

impl GradBuffer {
    /// A buffer of zeros.
    pub fn zeros(shape: impl Into<Shape>, dtype: DType, device: &Device) -> Result<Self> {
        Ok(Self {
            sum: Tensor::zeros(shape, dtype, device)?,
            touched: false,
        })
    }

    /// A buffer of zeros for a parameter: same shape, type and device.
    pub fn zeros_like(parameter: &Tensor) -> Result<Self> {
        Self::zeros(parameter.shape(), parameter.dtype(), parameter.device())
    }

    /// The gradient accumulated so far.
    pub fn tensor(&self) -> &Tensor {
        &self.sum
    }

    /// Whether anything has been added since the buffer was made or cleared.
    pub fn is_touched(&self) -> bool {
        self.touched
    }

    /// Adds `gradient`, which has as many elements as the buffer, in place.
    pub fn add(&mut self, gradient: &Tensor) -> Result<()> {
        self.touched = true;
        let gradient = gradient
            .detach()
            .to_dtype(self.sum.dtype())?
            .reshape(self.sum.shape())?
            .contiguous()?;
        #[cfg(feature = "cuda")]
        if gradient.device().is_cuda() && self.sum.dtype() == DType::F32 {
            return crate::cuda::add_to(&gradient, &self.sum);
        }
        if !gradient.device().is_cpu() {
            // on devices other than the CPU the sum is a new tensor; the device orders the two
            self.sum = (&self.sum + gradient)?;
            return Ok(());
        }
        match self.sum.dtype() {
            DType::F32 => self.add_on_cpu::<f32>(&gradient),
            DType::F64 => self.add_on_cpu::<f64>(&gradient),
            other => candle_core::bail!("gradients accumulate in f32 or f64, not {other:?}"),
        }
    }

    fn add_on_cpu<T: Real>(&mut self, gradient: &Tensor) -> Result<()> {
        let gradient = cpu::Slice::<T>::new(gradient)?;
        self.update_on_cpu(|sum: &mut [T]| cpu::add_assign(sum, &gradient))
    }

    /// Adds the gradient to `sum`, of the same shape and type, and sets it to zero.
    pub fn drain_to(&mut self, sum: &mut Self) -> Result<()> {
        if !self.touched {
            return Ok(());
        }
        match (self.sum.device().is_cpu(), self.sum.dtype()) {
            (true, DType::F32) => self.drain_on_cpu::<f32>(sum)?,
            (true, DType::F64) => self.drain_on_cpu::<f64>(sum)?,
            _ => {
                sum.add(&self.sum)?;
                self.sum.zero_set()?;
            }
        }
        self.touched = false;
        Ok(())
    }

    fn drain_on_cpu<T: Real>(&mut self, to: &mut Self) -> Result<()> {
        self.update_on_cpu(|from: &mut [T]| {
            to.update_on_cpu(|to: &mut [T]| {
                for (to, from) in to.iter_mut().zip(from) {
                    *to += std::mem::replace(from, T::zero());
                }
            })
        })?
    }

    /// Lends the buffer's elements to a CPU kernel that adds to them.
    ///
    /// # Errors
    /// A buffer on another device or of another type than `T`.
    pub fn update_on_cpu<T: Real, R>(&mut self, add: impl FnOnce(&mut [T]) -> R) -> Result<R> {
        self.touched = true;
        cpu::with_slice_mut(&self.sum, add)
    }

    /// The sum tensor, for a kernel that adds to it.
    #[cfg(feature = "cuda")]
    pub(crate) fn touch(&mut self) -> &Tensor {
        self.touched = true;
        &self.sum
    }

    /// Replaces the gradient by `sum`, which has as many elements, such as the sum over several
    /// processes.
    ///
    /// # Errors
    /// A tensor of another size or type.
    pub fn replace(&mut self, sum: &Tensor) -> Result<()> {
        if sum.dtype() != self.sum.dtype() {
            candle_core::bail!("a gradient of {:?} was given {:?}", self.sum.dtype(), sum.dtype());
        }
        // storage of its own: kernels add to it in place
        self.sum = sum.reshape(self.sum.shape())?.force_contiguous()?;
        self.touched = true;
        Ok(())
    }

    /// Sets the gradient to zero before the next step.
    pub fn clear(&mut self) -> Result<()> {
        self.touched = false;
        self.sum.zero_set()
    }
}
