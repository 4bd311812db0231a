//! The state of streams in a file: read a prompt once, continue it later.
//!
//! A safetensors file: the tensors `{stage}.context`, `{stage}.state.{slot}` (if present) and
//! `logits` (b or 1, V) of the next byte. The header's metadata has, under `generator_state`, a
//! JSON document with the position, the bytes of the open patch, and a fingerprint of the model.
//! The position determines how many positions each stage has run.

use std::path::Path;

use candle_core::{DType, Tensor};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::generator::{Generator, GeneratorState, OpenSequence};
use crate::checkpoint::{Weights, hex, save_tensors};
use crate::model::{Mblm, State};
use crate::{Error, Result};

/// The version of the format.
const FORMAT: u64 = 1;

const METADATA: &str = "generator_state";

/// Elements at either end of a parameter that enter the fingerprint.
const TELLING: usize = 16;

#[derive(Serialize, Deserialize)]
struct Document {
    format: u64,
    model: String,
    position: usize,
    /// The bytes of each stream's open patch.
    patch: Vec<Vec<u32>>,
    /// The number of slots of each stage's state.
    slots: Vec<usize>,
}

impl Generator {
    /// Writes `state`, and the logits (b, V) of the next id, to a file.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn save_state(&self, state: &GeneratorState, logits: &Tensor, path: &Path) -> Result<()> {
        let mut tensors = vec![("logits".to_string(), logits.clone())];
        for (stage, open) in state.sequences.iter().enumerate() {
            tensors.extend(
                open.context
                    .iter()
                    .map(|context| (format!("{stage}.context"), context.clone())),
            );
            for slot in 0..open.state.slots() {
                let tensor = open.state.get(slot).cloned();
                tensors.extend(tensor.map(|tensor| (format!("{stage}.state.{slot}"), tensor)));
            }
        }
        let document = Document {
            format: FORMAT,
            model: fingerprint(self.model())?,
            position: state.position,
            patch: state.patch.clone(),
            slots: state.sequences.iter().map(|open| open.state.slots()).collect(),
        };
        let document = serde_json::to_string(&document).map_err(|error| Error::file(path, error))?;
        save_tensors(path, &tensors, &[(METADATA, &document)])
    }

    /// Reads a state written by [`save_state`](Self::save_state), with the logits (b, V) of the
    /// next id.
    ///
    /// # Errors
    /// The file cannot be read, is not a state, or belongs to another model.
    pub fn load_state(&self, path: &Path) -> Result<(GeneratorState, Tensor)> {
        let file = Weights::open_as_stored(path)?;
        let document = document(&file)?;
        self.check_document(&document)
            .map_err(|message| Error::file(path, message))?;
        let (dtype, device) = (self.model().dtype(), self.model().device());
        // converted to the model's current type: the file may be from another device
        let load = |name: String, now: Option<&Tensor>| -> Result<Option<Tensor>> {
            let (shape, dtype) = (
                file.shape(&name).map(<[usize]>::to_vec),
                now.map_or(dtype, Tensor::dtype),
            );
            shape.map(|shape| file.load(&name, &shape, dtype, device)).transpose()
        };
        let mut state = self.begin(document.patch.len());
        let open = document.patch.first().map_or(0, Vec::len);
        for (stage, slots) in document.slots.iter().enumerate() {
            let bytes = self.model().stage_bytes(stage);
            let positions = match stage {
                0 => document.position / bytes,
                _ => open % self.model().stage_bytes(stage - 1) / bytes,
            };
            let begun = &state.sequences[stage];
            let mut block = State::at(positions + 1, *slots);
            for slot in 0..*slots {
                if let Some(tensor) = load(format!("{stage}.state.{slot}"), begun.state.get(slot))? {
                    block.set(slot, tensor);
                }
            }
            let mut block = block.growing_like(&begun.state);
            block.reserve()?;
            state.sequences[stage] = OpenSequence {
                state: block,
                context: load(format!("{stage}.context"), begun.context.as_ref())?,
                positions,
            };
        }
        state.position = document.position;
        let vocabulary = self.model().config().num_tokens;
        let logits = file.load("logits", &[document.patch.len(), vocabulary], DType::F32, device)?;
        state.patch = document.patch;
        Ok((state, logits))
    }

    fn check_document(&self, document: &Document) -> Result<(), String> {
        let (bytes, stages) = (self.model().stage_bytes(0), self.model().stage_count());
        let vocabulary = self.model().config().num_tokens;
        let open = document.position % bytes;
        if document.model != fingerprint(self.model()).map_err(|error| error.to_string())? {
            return Err(
                "expected a state of this model, found the state of another model; read the prompt again".into(),
            );
        }
        let known = |id: &u32| (*id as usize) < vocabulary;
        let whole = document
            .patch
            .iter()
            .all(|patch| patch.len() == open && patch.iter().all(known));
        // a state has few slots: a huge number is corrupt
        if !whole
            || document.patch.is_empty()
            || document.slots.len() != stages
            || document.slots.iter().any(|n| *n > 1 << 16)
        {
            return Err("the state is damaged: its parts do not fit together; read the prompt again".into());
        }
        Ok(())
    }
}

fn document(file: &Weights) -> Result<Document> {
    let text = file
        .metadata(METADATA)
        .ok_or_else(|| Error::file(file.path(), "expected the state of a generation, found other tensors"))?;
    let document: Document = serde_json::from_str(&text)
        .map_err(|error| Error::file(file.path(), format!("not the state of a generation: {error}")))?;
    if document.format != FORMAT {
        let found = document.format;
        let message = format!("expected format {FORMAT}, found format {found}; use the version of mblm that wrote it");
        return Err(Error::file(file.path(), message));
    }
    Ok(document)
}

/// A checksum of a model's configuration and of the ends of its parameters.
fn fingerprint(model: &Mblm) -> Result<String> {
    let mut hash = Sha256::new();
    let config = serde_json::to_string(model.config()).map_err(|error| Error::config(error.to_string()))?;
    hash.update(config);
    for parameter in model.parameters().iter() {
        let values = parameter.value().flatten_all()?;
        let count = values.dim(0)?;
        let ends = [0, count - count.min(TELLING)];
        for start in ends {
            let part = values.narrow(0, start, count.min(TELLING))?.to_dtype(DType::F32)?;
            for value in part.to_vec1::<f32>()? {
                hash.update(value.to_le_bytes());
            }
        }
    }
    Ok(hex(&hash.finalize()))
}
