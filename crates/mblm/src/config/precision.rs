//! The type of matrix products: the key `train.precision`.

use candle_core::Device;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The type of matrix products and of the activations between them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// `Bf16` on GPUs, `Float32` elsewhere.
    #[default]
    Auto,
    /// 32-bit floats everywhere.
    Float32,
    /// bfloat16 matrix products; weights, norms, softmax, scan states and accumulators stay 32-bit.
    Bf16,
    /// `Bf16` on GPUs and on processors that train faster with it, `Float32` elsewhere. A run keeps
    /// what it began with.
    Fastest,
}

impl Precision {
    /// Returns whether matrix products on this device are bfloat16.
    pub fn is_bf16(self, device: &Device) -> bool {
        match self {
            Self::Auto => !device.is_cpu(),
            Self::Float32 => false,
            Self::Bf16 => true,
            Self::Fastest => !device.is_cpu() || crate::bf16_is_fast(),
        }
    }

    /// Returns the precision that `Fastest` means on this device; returns any other precision
    /// unchanged.
    pub fn chosen(self, device: &Device) -> Self {
        match (self, self.is_bf16(device)) {
            (Self::Fastest, true) => Self::Bf16,
            (Self::Fastest, false) => Self::Float32,
            (other, _) => other,
        }
    }
}
