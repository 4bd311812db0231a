//! Numeric settings of the layers, passed along with the rows.
//!
//! Three settings do not change the meaning of a layer: how products round ([`Products`]), the type
//! of the activations, and whether products with few rows read packed copies of the weights
//! ([`linear::Packed`]). A [`Compute`] holds all three. Each call passes its own, so that one
//! thread can train with rounded products while another evaluates exactly.
//!
//! A packed copy stores the version of its weight. Once the weight changes, the copy is not used.

use std::fmt;
use std::sync::Arc;

use candle_core::{DType, Device};
use mblm_ops::linear::{self, Products};

use super::parameter::{Parameter, Parameters, WeightVersion};
use crate::Result;
use crate::config::Precision;

/// How the layers of a model compute: exactly and in the type of the parameters by default.
///
/// ```
/// use mblm::config::Precision;
/// use mblm::model::Compute;
///
/// let cpu = mblm::candle::Device::Cpu;
/// let training = Compute::for_training(Precision::Bf16, &cpu); // linear layers round to bfloat16
/// let evaluation = Compute::default(); // exact
/// # let _ = (training, evaluation);
/// ```
#[derive(Clone, Debug, Default)]
pub struct Compute {
    products: Products,
    /// `None` for the type of the parameters.
    activations: Option<DType>,
    packed: Option<Arc<PackedWeights>>,
}

/// Packed copies of the weights of linear layers; a parameter's copy is found at its index.
struct PackedWeights(Vec<Option<PackedWeight>>);

struct PackedWeight {
    version: WeightVersion,
    /// `None` where a weight has no packed form, as on a GPU.
    packed: Option<linear::Packed>,
}

impl PackedWeights {
    /// Whether these copies cover all linear weights of `parameters`, with their current values.
    fn is_of(&self, parameters: &Parameters) -> bool {
        let mut copies = parameters.iter().zip(&self.0);
        self.0.len() == parameters.len()
            && copies.all(|(parameter, copy)| match copy {
                Some(copy) => parameter.has_version(&copy.version),
                None => parameter.weight_version().is_none(),
            })
    }
}

impl fmt::Debug for PackedWeights {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} packed weights", self.0.iter().flatten().count())
    }
}

impl Compute {
    /// Settings for training: with `Bf16`, products round, and GPU activations are bfloat16.
    pub fn for_training(precision: Precision, device: &Device) -> Self {
        match precision.is_bf16(device) {
            true => Self {
                products: Products::Bf16,
                ..Self::for_use(precision, device)
            },
            false => Self::default(),
        }
    }

    /// Settings for inference: with `Bf16`, GPU activations are bfloat16. On the CPU products are
    /// exact, so the result does not depend on how many positions are computed at once.
    pub fn for_use(precision: Precision, device: &Device) -> Self {
        Self {
            activations: (precision.is_bf16(device) && device.is_cuda()).then_some(DType::BF16),
            ..Self::default()
        }
    }

    /// The same settings with packed copies of these parameters, which products with few rows read,
    /// as in decoding. The result and its clones own the copies.
    ///
    /// # Errors
    /// A failing device.
    pub fn with_packed(&self, parameters: &Parameters) -> Result<Self> {
        if self.packed.as_ref().is_some_and(|packed| packed.is_of(parameters)) {
            return Ok(self.clone());
        }
        let pack = |parameter: &Parameter| -> Result<Option<PackedWeight>> {
            let Some(version) = parameter.weight_version() else {
                return Ok(None);
            };
            let packed = linear::pack(parameter.value())?;
            Ok(Some(PackedWeight { version, packed }))
        };
        let packed = parameters.iter().map(pack).collect::<Result<_>>()?;
        Ok(Self {
            packed: Some(Arc::new(PackedWeights(packed))),
            ..self.clone()
        })
    }

    /// The rounding of products.
    pub fn products(&self) -> Products {
        self.products
    }

    /// The type of activations for parameters of type `parameters`.
    pub fn activations(&self, parameters: DType) -> DType {
        self.activations.unwrap_or(parameters)
    }

    /// The packed copy of a weight, if it exists and the weight has not changed since.
    pub(super) fn packed_of(&self, weight: &Parameter) -> Option<&linear::Packed> {
        let copy = self.packed.as_ref()?.0.get(weight.index())?.as_ref()?;
        copy.packed.as_ref().filter(|_| weight.has_version(&copy.version))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;
    use crate::model::{Gradients, Ids, Mblm, TrainingPass};

    fn model() -> Mblm {
        let config = serde_json::from_value(serde_json::json!({
            "num_tokens": 257, "pad_token_id": 256, "seq_lens": [64, 4], "hidden_dims": [32, 16], "num_layers": [1, 1],
            "train_checkpoint_chunks": null,
            "block": {"attn_head_dims": 8, "attn_num_heads": 2, "attn_use_rot_embs": true, "pos_emb_type": null},
        }));
        Mblm::seeded(&config.unwrap(), 3, &Device::Cpu).unwrap()
    }

    /// Trains with rounded products in one thread while another evaluates the same bytes.
    #[test]
    fn an_evaluation_beside_a_rounded_training_pass_is_exact() {
        let model = model();
        let bytes: Vec<u32> = (0..400).map(|byte| byte * 37 % 251).collect();
        let ids = Ids::new(&bytes, 2, 200);
        let train = |precision| {
            let pass = TrainingPass {
                compute: Compute::for_training(precision, &Device::Cpu),
                ..TrainingPass::default()
            };
            let mut gradients = Gradients::zeros(model.parameters()).unwrap();
            model.loss_and_gradients(ids, None, pass, &mut gradients).unwrap().mean
        };
        let evaluate = || {
            let losses = model.losses(ids).unwrap().flatten_all().unwrap();
            losses.to_vec1::<f32>().unwrap()
        };
        let alone = (train(Precision::Bf16), evaluate());
        assert_ne!(alone.0, train(Precision::Float32), "bfloat16 products round");
        let evaluated = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for _ in 0..6 {
                    assert_eq!(evaluate(), alone.1);
                }
                evaluated.store(true, Ordering::Relaxed);
            });
            loop {
                assert_eq!(train(Precision::Bf16), alone.0);
                if evaluated.load(Ordering::Relaxed) {
                    break;
                }
            }
        });
    }

    #[test]
    fn packed_copies_are_read_as_long_as_they_are_the_weight() {
        let (model, other) = (model(), model());
        let compute = Compute::default().with_packed(model.parameters()).unwrap();
        let weight = model.parameters().get("to_logits.weight").unwrap();
        assert!(compute.packed_of(weight).is_some());
        assert!(
            compute
                .packed_of(other.parameters().get("to_logits.weight").unwrap())
                .is_none()
        );
        assert!(
            compute
                .packed_of(model.parameters().get("to_logits.bias").unwrap())
                .is_none()
        );
        assert!(Compute::default().packed_of(weight).is_none());
        let shared = |other: &Compute| Arc::ptr_eq(compute.packed.as_ref().unwrap(), other.packed.as_ref().unwrap());
        assert!(shared(&compute.with_packed(model.parameters()).unwrap()));

        weight.set(&(weight.value() * 2.0).unwrap()).unwrap();
        assert!(compute.packed_of(weight).is_none());
        let again = compute.with_packed(model.parameters()).unwrap();
        assert!(!shared(&again) && again.packed_of(weight).is_some());
    }
}
