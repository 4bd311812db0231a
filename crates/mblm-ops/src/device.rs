//! Device properties beside the kernels: name, memory, work sizes, and sums in a wider type.
//!
//! ```
//! let device = mblm_ops::device::open("cpu")?;
//! assert!(mblm_ops::device::name(&device).starts_with("cpu"));
//! # Ok::<(), candle_core::Error>(())
//! ```

use candle_core::{Device, Result, Tensor};

use crate::widened;

/// The device of this name: `cpu`, `cuda` (the first), `cuda:N`, or `auto`.
///
/// `auto` is the first CUDA device if there is one, else the CPU.
///
/// # Errors
/// An unknown name, a missing CUDA device, or any CUDA device in a build without the feature
/// `cuda`.
pub fn open(name: &str) -> Result<Device> {
    let ordinal = match name {
        "cpu" => return Ok(Device::Cpu),
        "auto" => return Ok(cuda(0).unwrap_or(Device::Cpu)),
        "cuda" => Some(0),
        other => other.strip_prefix("cuda:").and_then(|ordinal| ordinal.parse().ok()),
    };
    match ordinal {
        Some(ordinal) => cuda(ordinal),
        None => candle_core::bail!("expected auto, cpu, cuda or cuda:N, found `{name}`"),
    }
}

#[cfg(feature = "cuda")]
fn cuda(ordinal: usize) -> Result<Device> {
    crate::cuda::device(ordinal).map_err(|error| {
        let reason = error.to_string();
        let reason = reason.lines().next().unwrap_or_default();
        candle_core::Error::Msg(format!(
            "cuda:{ordinal} cannot be opened: {reason}; `nvidia-smi` lists the devices and the driver's version"
        ))
    })
}

#[cfg(not(feature = "cuda"))]
fn cuda(ordinal: usize) -> Result<Device> {
    candle_core::bail!(
        "cuda:{ordinal} cannot be opened: this program was built without CUDA; build it with the feature cuda, or use cpu"
    )
}

/// The instruction sets that the CPU kernels use on this processor.
pub fn instructions() -> &'static str {
    #[cfg(target_arch = "x86_64")]
    {
        let found = |name| match name {
            "AVX-512 and AMX" => mblm_gemm::processor().amx,
            "AVX-512" => is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512vl"),
            _ => is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma"),
        };
        for name in ["AVX-512 and AMX", "AVX-512", "AVX2"] {
            if found(name) {
                return name;
            }
        }
    }
    "portable"
}

/// A readable name of the device.
pub fn name(device: &Device) -> String {
    match device {
        Device::Cpu => format!("cpu, {} threads", crate::cpu::threads()),
        #[cfg(feature = "cuda")]
        Device::Cuda(cuda) => match cuda.cuda_stream().context().name() {
            Ok(name) => format!("{}, {name}", place(device)),
            Err(_) => place(device),
        },
        other => place(other),
    }
}

fn place(device: &Device) -> String {
    match device.location() {
        candle_core::DeviceLocation::Cpu => "cpu".into(),
        candle_core::DeviceLocation::Cuda { gpu_id } => format!("cuda:{gpu_id}"),
        candle_core::DeviceLocation::Metal { gpu_id } => format!("metal:{gpu_id}"),
    }
}

/// Free and total bytes of the device's own memory; `None` for the CPU.
///
/// Memory that this program holds for reuse does not count as free.
pub fn memory(device: &Device) -> Result<Option<(usize, usize)>> {
    match device {
        #[cfg(feature = "cuda")]
        Device::Cuda(_) => crate::cuda::memory(device).map(Some),
        _ => Ok(None),
    }
}

/// Whether an operation failed because the device is out of memory.
pub fn is_out_of_memory(error: &candle_core::Error) -> bool {
    let text = format!("{error:?}");
    ["CUDA_ERROR_OUT_OF_MEMORY", "CUBLAS_STATUS_ALLOC_FAILED"]
        .iter()
        .any(|kind| text.contains(kind))
}

/// Rows that a GPU, or the CPU, computes at full speed while a training pass keeps little for them.
///
/// Below some ten thousand rows, products and launches take a GPU the same time.
pub fn rows_at_once(gpu: bool) -> usize {
    match gpu {
        true => 24_576,
        false => 4096,
    }
}

/// Rows of `width` numbers that a training pass takes at once: at least [`rows_at_once`].
///
/// A GPU takes more narrow rows, because a launch costs as much for few numbers as for many.
pub fn training_rows(gpu: bool, width: usize) -> usize {
    /// The width at which [`rows_at_once`] was measured on a GPU.
    const WIDTH: usize = 1024;
    /// Largest multiple of [`rows_at_once`]: the width of logits does not depend on `width`.
    const MAX: usize = 8;
    let narrow = if gpu { (WIDTH / width.max(1)).clamp(1, MAX) } else { 1 };
    rows_at_once(gpu) * narrow
}

/// The sum over the first dimension of `x` (n, …), as (1, …); in `f32` if `x` is narrower.
pub fn sum_sequences(x: &Tensor) -> Result<Tensor> {
    #[cfg(feature = "cuda")]
    if crate::cuda::takes(x) {
        return crate::cuda::sum_sequences(x);
    }
    widened(x)?.sum_keepdim(0)
}

/// `x` (…, w) in the layout that the device's kernels read fastest.
///
/// The last dimension is contiguous; on the CPU the whole tensor is.
pub fn readable(x: Tensor) -> Result<Tensor> {
    match x.device().is_cpu() {
        true => x.contiguous(),
        false => Ok(x),
    }
}

#[cfg(test)]
mod tests {
    use candle_core::DType;

    use super::*;
    use crate::relative_error;
    use crate::testing::uniform;

    #[test]
    fn sums_of_bfloat16_keep_their_digits() -> Result<()> {
        // a running sum in bfloat16 stops at 256 times its terms
        let x = Tensor::ones((10_000, 1, 3), DType::BF16, &Device::Cpu)?;
        let sum = sum_sequences(&x)?;
        assert_eq!(sum.dtype(), DType::F32);
        assert_eq!(sum.to_vec3::<f32>()?, [[[1e4; 3]]]);
        let x = uniform(&[5, 2, 3], 1)?;
        assert!(relative_error(&sum_sequences(&x)?, &x.sum_keepdim(0)?, 1e-6)? < 1e-15);
        Ok(())
    }

    #[cfg(feature = "cuda")]
    #[test]
    fn sums_on_cuda_keep_their_digits() -> Result<()> {
        let device = crate::cuda::device(0)?;
        let x = Tensor::ones((10_000, 2, 3), DType::BF16, &device)?;
        assert_eq!(sum_sequences(&x.narrow(1, 0, 1)?)?.to_vec3::<f32>()?, [[[1e4; 3]]]);
        assert_eq!(sum_sequences(&x.narrow(0, 0, 0)?)?.dims(), [1, 2, 3]);
        Ok(())
    }
}
