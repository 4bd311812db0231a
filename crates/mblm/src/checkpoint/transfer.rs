//! Initializes a model from another model's weights.
//!
//! All tensors are copied. With `migrate_embeddings` the other model's vocabulary may be smaller:
//! its token tables (of every stage) and its logits layer become the first rows of the larger ones,
//! and the other rows keep their seeded initialization. The row of the padding id is zero.

use std::path::Path;

use candle_core::{DType, Device, Tensor};

use super::{Folder, Weights};
use crate::model::{Init, ParameterSource, Seeded};
use crate::{Error, Result};

/// Another model's weights as the initial values of a new one.
pub struct Transfer {
    weights: Weights,
    migrate: bool,
    fresh: Seeded,
}

impl Transfer {
    /// Opens a model folder, a run's folder (its best model) or a weights file. `migrate` allows a
    /// smaller vocabulary, whose missing rows come from `fresh`.
    ///
    /// # Errors
    /// Files that are missing or damaged.
    pub fn open(path: &Path, migrate: bool, fresh: Seeded) -> Result<Self> {
        let weights = match path.is_dir() {
            true => Folder::open(path)?.weights,
            false => Weights::open(path)?,
        };
        Ok(Self {
            weights,
            migrate,
            fresh,
        })
    }

    /// Returns the stored rows if the tensor depends on the vocabulary and has too few.
    fn fewer_rows(&self, name: &str, shape: &[usize]) -> Option<usize> {
        let table = name.starts_with("token_embs_rev.") && name.ends_with(".embedding.weight");
        if !table && !name.starts_with("to_logits.") {
            return None;
        }
        let (rows, rest) = self.weights.shape(name)?.split_first()?;
        (shape.first() > Some(rows) && shape.get(1..) == Some(rest)).then_some(*rows)
    }
}

impl ParameterSource for Transfer {
    fn tensor(&self, name: &str, shape: &[usize], init: Init, dtype: DType, device: &Device) -> Result<Tensor> {
        let (Some(rows), Some(wanted)) = (self.fewer_rows(name, shape), shape.first()) else {
            return self.weights.load(name, shape, dtype, device);
        };
        if !self.migrate {
            return Err(Error::input(format!(
                "tensor {name}: expected a vocabulary of {wanted}, found {rows}; set resume.migrate_embeddings to true \
                 to keep the stored rows and add new rows for the others"
            )));
        }
        let fresh = self.fresh.tensor(name, shape, init, dtype, device)?;
        let mut stored_shape = shape.to_vec();
        stored_shape[0] = rows;
        let stored = self.weights.load(name, &stored_shape, dtype, device)?;
        let table = Tensor::cat(&[&stored, &fresh.narrow(0, rows, wanted - rows)?], 0)?;
        match init {
            Init::NormalExceptRow(pad) if pad < rows => {
                let zero = fresh.narrow(0, pad, 1)?;
                Ok(table.slice_scatter(&zero, 0, pad)?)
            }
            _ => Ok(table),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::blocks::BlockRegistry;
    use crate::config::ModelConfig;
    use crate::model::Mblm;
    use serde_json::json;

    fn config(num_tokens: usize, pad_token_id: u32) -> ModelConfig {
        serde_json::from_value(json!({
            "num_tokens": num_tokens, "pad_token_id": pad_token_id, "train_checkpoint_chunks": null,
            "seq_lens": [4, 3], "hidden_dims": [8, 8], "num_layers": [1, 1],
            "block": { "attn_head_dims": 4, "attn_num_heads": 2, "attn_use_rot_embs": true, "pos_emb_type": "fixed" }
        }))
        .unwrap()
    }

    fn saved(folder: &Path) -> crate::model::Model {
        let model = Mblm::seeded(&config(257, 256), 1, &Device::Cpu).unwrap();
        let model = crate::model::Model::Decoder(std::sync::Arc::new(model));
        model.save(folder).unwrap();
        model
    }

    fn transferred(folder: &Path, migrate: bool, config: &ModelConfig) -> Result<Mblm> {
        let source = Transfer::open(folder, migrate, Seeded(2))?;
        Mblm::new(config, &BlockRegistry::default(), &source, DType::F32, &Device::Cpu)
    }

    fn rows(tensor: &Tensor) -> Vec<f32> {
        tensor.flatten_all().unwrap().to_vec1().unwrap()
    }

    #[test]
    fn the_same_architecture_gets_all_tensors() {
        let folder = tempfile::tempdir().unwrap();
        let model = saved(folder.path());
        for migrate in [false, true] {
            let found = transferred(folder.path(), migrate, &config(257, 256)).unwrap();
            for parameter in model.parameters().iter() {
                let other = found.parameters().get(parameter.name()).unwrap();
                assert_eq!(rows(other.value()), rows(parameter.value()), "{}", parameter.name());
            }
        }
    }

    #[test]
    fn a_larger_vocabulary_keeps_the_old_rows_and_begins_with_new_ones() {
        let folder = tempfile::tempdir().unwrap();
        let model = saved(folder.path());
        let larger = config(260, 256);
        let found = transferred(folder.path(), true, &larger).unwrap();
        let fresh = Mblm::seeded(&larger, 2, &Device::Cpu).unwrap();
        let mut grown = 0;
        for parameter in found.parameters().iter() {
            let (name, values) = (parameter.name(), rows(parameter.value()));
            let old = rows(model.parameters().get(name).unwrap().value());
            assert_eq!(values[..old.len()], old, "{name}");
            if values.len() > old.len() {
                grown += 1;
                let new = rows(fresh.parameters().get(name).unwrap().value());
                assert_eq!(values[old.len()..], new[old.len()..], "{name}");
            }
        }
        // two token tables, and weight and bias of the logits
        assert_eq!(grown, 4);
    }

    #[test]
    fn the_row_of_a_new_padding_id_is_zero() {
        let folder = tempfile::tempdir().unwrap();
        let model = saved(folder.path());
        let found = transferred(folder.path(), true, &config(260, 7)).unwrap();
        for name in ["token_embs_rev.0.embedding.weight", "token_embs_rev.1.embedding.weight"] {
            let table = found.parameters().get(name).unwrap().value();
            assert_eq!(rows(&table.get(7).unwrap()), [0.0; 8]);
            let old = model.parameters().get(name).unwrap().value();
            assert_eq!(rows(&table.get(8).unwrap()), rows(&old.get(8).unwrap()));
        }
        let logits = found.parameters().get("to_logits.weight").unwrap().value();
        let old = model.parameters().get("to_logits.weight").unwrap().value();
        assert_eq!(rows(&logits.get(7).unwrap()), rows(&old.get(7).unwrap()));
    }

    #[test]
    fn what_does_not_fit_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        saved(folder.path());
        let message = |migrate, config: &ModelConfig| {
            let error = transferred(folder.path(), migrate, config).err().expect("an error");
            error.to_string()
        };
        let said = message(false, &config(260, 256));
        assert!(said.contains("set resume.migrate_embeddings to true"), "{said}");
        // smaller than the other model's vocabulary
        assert!(message(true, &config(256, 0)).contains("expected shape [256, 8]"));
        let mut other = config(257, 256);
        other.seq_lens = vec![5, 3];
        assert!(message(true, &other).contains("pos_embs.0.weight"));
        assert!(Transfer::open(&folder.path().join("missing"), true, Seeded(1)).is_err());
    }
}
