//! The check that every operation passes. [`op_test!`] turns a [`Check`] into tests.
//!
//! Values and gradients of the fused operation equal its reference implementation, in each type and
//! on each device, and its gradients equal finite differences in `f64`.

use candle_core::{DType, Device, Result, Tensor};

use crate::testing::uniform;
use crate::{GradBuffer, fallback, relative_error};

/// Turns each `name: check` into a module of tests.
///
/// The tests compare with the reference per type and device, and with finite differences.
macro_rules! op_test {
    ($($name:ident: $check:expr)*) => {$(
        mod $name {
            use super::*;

            #[test]
            fn equals_reference_in_f32_on_the_cpu() -> candle_core::Result<()> {
                $check.against_reference(candle_core::DType::F32, &candle_core::Device::Cpu)
            }

            #[test]
            fn equals_reference_in_f64_on_the_cpu() -> candle_core::Result<()> {
                $check.against_reference(candle_core::DType::F64, &candle_core::Device::Cpu)
            }

            #[test]
            fn gradients_equal_finite_differences() -> candle_core::Result<()> {
                $check.finite_differences()
            }

            #[cfg(feature = "cuda")]
            #[test]
            fn equals_reference_in_f32_on_cuda() -> candle_core::Result<()> {
                $check.against_reference_on_cuda(candle_core::DType::F32)
            }

            #[cfg(feature = "cuda")]
            #[test]
            fn equals_reference_in_bf16_on_cuda() -> candle_core::Result<()> {
                $check.against_reference_on_cuda(candle_core::DType::BF16)
            }
        }
    )*};
}
pub(crate) use op_test;

/// The name and the inputs of an operation under test.
pub(crate) struct Harness {
    name: &'static str,
    inputs: Vec<Tensor>,
    /// Indices of the inputs that are `f32` if the others are `bf16`.
    wide: Vec<usize>,
}

impl Harness {
    /// A harness with inputs of these shapes, uniform in [-1, 1).
    pub(crate) fn new(name: &'static str, shapes: &[&[usize]]) -> Self {
        let inputs = shapes
            .iter()
            .enumerate()
            .map(|(index, shape)| uniform(shape, 1 + index as u64).expect("a shape of a test"))
            .collect();
        Self {
            name,
            inputs,
            wide: Vec::new(),
        }
    }

    /// Sets the inputs that stay `f32` if the activations are `bf16`.
    ///
    /// They are parameters other than the weights of linear layers, and states of scans.
    pub(crate) fn wide(mut self, inputs: &[usize]) -> Self {
        self.wide = inputs.to_vec();
        self
    }

    /// Maps input `index` to `scale · x + shift`, for inputs that live outside [-1, 1).
    pub(crate) fn affine(mut self, index: usize, scale: f64, shift: f64) -> Self {
        self.inputs[index] = self.inputs[index].affine(scale, shift).expect("f64 on the CPU");
        self
    }

    /// Sets the reference implementation: outputs from inputs, in ordinary tensor operations.
    pub(crate) fn reference<R>(self, reference: R) -> WithReference<R>
    where
        R: Fn(&[Tensor]) -> Result<Vec<Tensor>>,
    {
        WithReference {
            harness: self,
            reference,
        }
    }
}

/// A harness with a reference implementation.
pub(crate) struct WithReference<R> {
    harness: Harness,
    reference: R,
}

impl<R> WithReference<R> {
    /// Sets the fused operation: outputs, and the values saved for the backward pass.
    pub(crate) fn fused<F, S>(self, fused: F) -> WithFused<R, F>
    where
        F: Fn(&[Tensor]) -> Result<(Vec<Tensor>, S)>,
    {
        WithFused {
            harness: self.harness,
            reference: self.reference,
            fused,
        }
    }
}

/// A harness with a reference implementation and a fused forward pass.
pub(crate) struct WithFused<R, F> {
    harness: Harness,
    reference: R,
    fused: F,
}

impl<R, F> WithFused<R, F> {
    /// Sets the fused backward pass: from inputs, saved values and output gradients to input
    /// gradients.
    ///
    /// The gradient of a parameter goes to its buffer, and `None` takes its place.
    pub(crate) fn backward<B, S>(self, backward: B) -> Check<R, F, B>
    where
        F: Fn(&[Tensor]) -> Result<(Vec<Tensor>, S)>,
        B: Fn(&[Tensor], S, &[&Tensor], &mut [GradBuffer]) -> Result<Vec<Option<Tensor>>>,
    {
        Check {
            harness: self.harness,
            reference: self.reference,
            fused: self.fused,
            backward,
        }
    }
}

/// A complete check of an operation.
pub(crate) struct Check<R, F, B> {
    harness: Harness,
    reference: R,
    fused: F,
    backward: B,
}

impl<S, R, F, B> Check<R, F, B>
where
    R: Fn(&[Tensor]) -> Result<Vec<Tensor>>,
    F: Fn(&[Tensor]) -> Result<(Vec<Tensor>, S)>,
    B: Fn(&[Tensor], S, &[&Tensor], &mut [GradBuffer]) -> Result<Vec<Option<Tensor>>>,
{
    fn inputs(&self, dtype: DType, device: &Device) -> Result<Vec<Tensor>> {
        self.harness
            .inputs
            .iter()
            .map(|input| input.to_dtype(dtype)?.to_device(device))
            .collect()
    }

    fn cotangents(&self, outputs: &[Tensor]) -> Result<Vec<Tensor>> {
        outputs
            .iter()
            .enumerate()
            .map(|(index, output)| {
                uniform(output.dims(), 1000 + index as u64)?
                    .to_dtype(output.dtype())?
                    .to_device(output.device())
            })
            .collect()
    }

    fn gradients(&self, inputs: &[Tensor], saved: S, dys: &[Tensor]) -> Result<Vec<Tensor>> {
        let buffer = |input: &Tensor| {
            let dtype = match input.dtype() {
                DType::F64 => DType::F64,
                _ => DType::F32,
            };
            GradBuffer::zeros(input.shape(), dtype, input.device())
        };
        let mut buffers = inputs.iter().map(buffer).collect::<Result<Vec<_>>>()?;
        let dys: Vec<&Tensor> = dys.iter().collect();
        let returned = (self.backward)(inputs, saved, &dys, &mut buffers)?;
        returned
            .into_iter()
            .zip(&buffers)
            .map(|(gradient, buffer)| match gradient {
                Some(gradient) => Ok(gradient),
                None => Ok(buffer.tensor().clone()),
            })
            .collect()
    }

    /// Fails unless outputs and gradients equal the reference to the rounding of `dtype`.
    pub(crate) fn against_reference(&self, dtype: DType, device: &Device) -> Result<()> {
        let bound = match dtype {
            DType::F64 => 1e-12,
            DType::F32 => 3e-6,
            _ => 2e-2,
        };
        let inputs = self.inputs(dtype, device)?;
        let expected = (self.reference)(&inputs)?;
        let (found, saved) = (self.fused)(&inputs)?;
        assert_eq!(found.len(), expected.len(), "{}: number of outputs", self.harness.name);
        for (index, (found, expected)) in found.iter().zip(&expected).enumerate() {
            self.compare(&format!("output {index}"), found, expected, bound)?;
        }
        let dys = self.cotangents(&expected)?;
        let references: Vec<&Tensor> = inputs.iter().collect();
        let weights: Vec<Option<&Tensor>> = dys.iter().map(Some).collect();
        let expected = fallback::gradients(&references, &weights, &self.reference)?;
        let found = self.gradients(&inputs, saved, &dys)?;
        assert_eq!(
            found.len(),
            expected.len(),
            "{}: number of gradients",
            self.harness.name
        );
        for (index, (found, expected)) in found.iter().zip(&expected).enumerate() {
            self.compare(&format!("gradient of input {index}"), found, expected, bound)?;
        }
        Ok(())
    }

    /// Fails unless CUDA outputs and gradients equal the reference to the rounding of `dtype`.
    ///
    /// Runs on the first CUDA device. The reference is computed in `f64` on the CPU from the same
    /// numbers.
    #[cfg(feature = "cuda")]
    pub(crate) fn against_reference_on_cuda(&self, dtype: DType) -> Result<()> {
        let bound = match dtype {
            DType::F32 => 1e-5,
            _ => 2e-2,
        };
        let device = crate::cuda::device(0)?;
        let inputs: Vec<Tensor> = (self.harness.inputs.iter().enumerate())
            .map(|(index, input)| {
                let wide = self.harness.wide.contains(&index);
                input
                    .to_dtype(if wide { DType::F32 } else { dtype })?
                    .to_device(&device)
            })
            .collect::<Result<_>>()?;
        let exact = |tensors: &[Tensor]| -> Result<Vec<Tensor>> {
            tensors
                .iter()
                .map(|tensor| tensor.to_device(&Device::Cpu)?.to_dtype(DType::F64))
                .collect()
        };
        let exact_inputs = exact(&inputs)?;
        let expected = (self.reference)(&exact_inputs)?;
        // fills freed memory with NaN, so that elements that a kernel does not write show up
        drop(Tensor::full(f32::NAN, 1 << 22, &device)?);
        let (found, saved) = (self.fused)(&inputs)?;
        assert_eq!(found.len(), expected.len(), "{}: number of outputs", self.harness.name);
        for (index, (found, expected)) in found.iter().zip(&expected).enumerate() {
            self.compare(&format!("output {index}"), found, expected, bound)?;
        }
        let dys = self.cotangents(&found)?;
        let exact_dys = exact(&dys)?;
        let weights: Vec<Option<&Tensor>> = exact_dys.iter().map(Some).collect();
        let references: Vec<&Tensor> = exact_inputs.iter().collect();
        let expected = fallback::gradients(&references, &weights, &self.reference)?;
        drop(Tensor::full(f32::NAN, 1 << 22, &device)?);
        let found = self.gradients(&inputs, saved, &dys)?;
        for (index, (found, expected)) in found.iter().zip(&expected).enumerate() {
            self.compare(&format!("gradient of input {index}"), found, expected, bound)?;
        }
        Ok(())
    }

    fn compare(&self, what: &str, found: &Tensor, expected: &Tensor, bound: f64) -> Result<()> {
        let error = relative_error(found, expected, 1e-6)?;
        // written so that NaN fails
        assert!(
            error <= bound,
            "{}: {what} is off by {error:.2e} relative (bound {bound:.0e})",
            self.harness.name
        );
        Ok(())
    }

    /// Fails unless the fused gradients equal central differences in `f64` on the CPU.
    pub(crate) fn finite_differences(&self) -> Result<()> {
        const STEP: f64 = 1e-5;
        let inputs = self.inputs(DType::F64, &Device::Cpu)?;
        let (outputs, saved) = (self.fused)(&inputs)?;
        let dys = self.cotangents(&outputs)?;
        let gradients = self.gradients(&inputs, saved, &dys)?;
        let objective = |inputs: &[Tensor]| -> Result<f64> {
            let mut total = 0.0;
            for (output, dy) in (self.fused)(inputs)?.0.iter().zip(&dys) {
                total += (output * dy)?.sum_all()?.to_scalar::<f64>()?;
            }
            Ok(total)
        };
        for (index, input) in inputs.iter().enumerate() {
            let values: Vec<f64> = input.flatten_all()?.to_vec1()?;
            let mut differences = vec![0.0; values.len()];
            for (element, difference) in differences.iter_mut().enumerate() {
                let mut shifted = inputs.clone();
                let mut at = |delta: f64| -> Result<f64> {
                    let mut values = values.clone();
                    values[element] += delta;
                    shifted[index] = Tensor::from_vec(values, input.dims(), &Device::Cpu)?;
                    objective(&shifted)
                };
                *difference = (at(STEP)? - at(-STEP)?) / (2.0 * STEP);
            }
            let expected = Tensor::from_vec(differences, input.dims(), &Device::Cpu)?;
            self.compare(
                &format!("gradient of input {index} against finite differences"),
                &gradients[index],
                &expected,
                1e-6,
            )?;
        }
        Ok(())
    }
}
