//! A batch of byte ids: as given, padded to whole patches, and with the target of each row.

use candle_core::{Device, Tensor};

use crate::bytes::ids_from_bytes;
use crate::config::ModelConfig;
use crate::{Error, Result};

/// Ids of samples of the same length, one sample after the other, on the host.
///
/// ```
/// use mblm::model::Ids;
///
/// let text: Vec<u32> = "two samples!".bytes().map(u32::from).collect();
/// let two = Ids::new(&text, 2, 6); // "two sa" and "mples!"
/// let one = Ids::from(&text);
/// # let _ = (two, one);
/// ```
/// The model checks the shape and the ids.
/// A model checks the shape and the ids when it is given them.
#[derive(Clone, Copy, Debug)]
pub struct Ids<'a> {
    ids: &'a [u32],
    batch: usize,
    len: usize,
}

impl<'a> Ids<'a> {
    /// `ids` as `batch` samples of `len` ids each.
    pub fn new(ids: &'a [u32], batch: usize, len: usize) -> Self {
        Self { ids, batch, len }
    }
}

impl<'a> From<&'a [u32]> for Ids<'a> {
    /// One sample.
    fn from(ids: &'a [u32]) -> Self {
        Self {
            ids,
            batch: 1,
            len: ids.len(),
        }
    }
}

impl<'a> From<&'a Vec<u32>> for Ids<'a> {
    /// One sample.
    fn from(ids: &'a Vec<u32>) -> Self {
        Self::from(ids.as_slice())
    }
}

impl<'a, const N: usize> From<&'a [u32; N]> for Ids<'a> {
    /// One sample.
    fn from(ids: &'a [u32; N]) -> Self {
        Self::from(ids.as_slice())
    }
}

/// A batch for a decoder or encoder, on the host: samples of the same length, one after the other.
///
/// ```
/// use mblm::model::ModelBatch;
///
/// let text = "abcabc".bytes().map(u32::from).collect();
/// let batch = ModelBatch::new(text, 2, 3).with_loss_mask(vec![0.0, 1.0, 1.0, 0.0, 1.0, 1.0]);
/// # let _ = batch;
/// ```
#[derive(Clone, Debug)]
pub struct ModelBatch {
    /// Input ids, (batch · len).
    pub ids: Vec<u32>,
    /// The number of samples.
    pub batch: usize,
    /// Ids of a sample.
    pub len: usize,
    /// Weights of the loss, one for each id. An encoder needs them: they mark the bytes to restore.
    pub loss_mask: Option<Vec<f32>>,
    /// For an encoder: the original ids.
    pub labels: Option<Vec<u32>>,
}

impl ModelBatch {
    /// Creates `batch` samples of `len` ids each, whose predictions all count.
    pub fn new(ids: Vec<u32>, batch: usize, len: usize) -> Self {
        Self {
            ids,
            batch,
            len,
            loss_mask: None,
            labels: None,
        }
    }

    /// Sets a weight of the loss for each id.
    pub fn with_loss_mask(self, loss_mask: Vec<f32>) -> Self {
        Self {
            loss_mask: Some(loss_mask),
            ..self
        }
    }

    /// Sets the original ids, which an encoder is to restore.
    pub fn with_labels(self, labels: Vec<u32>) -> Self {
        Self {
            labels: Some(labels),
            ..self
        }
    }
}

impl From<&[u8]> for ModelBatch {
    /// One sample of these bytes.
    fn from(bytes: &[u8]) -> Self {
        Self::new(ids_from_bytes(bytes), 1, bytes.len())
    }
}

impl<'a> From<&'a ModelBatch> for Ids<'a> {
    fn from(batch: &'a ModelBatch) -> Self {
        Self::new(&batch.ids, batch.batch, batch.len)
    }
}

/// Checked ids, padded on the right with the padding id to whole stage-1 patches.
pub(super) struct PaddedIds {
    /// All ids, (B · padded), on the model's device.
    pub(super) tensor: Tensor,
    pub(super) host: Vec<u32>,
    pub(super) batch: usize,
    /// Bytes of a sample, without padding.
    pub(super) len: usize,
    /// Bytes of a sample with padding.
    pub(super) padded: usize,
}

impl PaddedIds {
    /// Checks and pads ids, and copies them to the device.
    pub(super) fn new(config: &ModelConfig, ids: Ids<'_>, device: &Device) -> Result<Self> {
        let Ids { ids, batch, len } = ids;
        if batch.checked_mul(len) != Some(ids.len()) {
            return Err(Error::input(format!(
                "ids: expected {batch} samples of {len} ids, found {} ids",
                ids.len()
            )));
        }
        check(config, ids, len)?;
        let padded = len.next_multiple_of(config.patch_bytes(0));
        let host = spread(ids, len, padded, config.pad_token_id);
        Ok(Self {
            tensor: Tensor::from_slice(&host, host.len(), device)?,
            host,
            batch,
            len,
            padded,
        })
    }

    /// The ids (count, positions, bytes) of `count` sequences from `first` on.
    pub(super) fn sequences(&self, first: usize, count: usize, positions: usize, bytes: usize) -> Result<Tensor> {
        let each = positions * bytes;
        Ok(self
            .tensor
            .narrow(0, first * each, count * each)?
            .reshape((count, positions, bytes))?)
    }

    /// Checks and pads the original ids (B · L) of a masked batch: (B · padded).
    pub(super) fn labels(&self, config: &ModelConfig, labels: &[u32]) -> Result<Vec<u32>> {
        let padded = self.per_byte("labels", labels, config.pad_token_id)?;
        check(config, labels, self.len)?;
        Ok(padded)
    }

    /// Pads values, one for each given id (B · L), with `padding`: (B · padded).
    pub(super) fn per_byte<T: Copy>(&self, what: &str, values: &[T], padding: T) -> Result<Vec<T>> {
        let (batch, len) = (self.batch, self.len);
        if values.len() != batch * len {
            return Err(Error::input(format!(
                "{what}: expected one value for each of ({batch}, {len}) ids, found {}",
                values.len()
            )));
        }
        Ok(spread(values, len, self.padded, padding))
    }
}

/// Pads rows of `len` values to `padded` values each.
fn spread<T: Copy>(values: &[T], len: usize, padded: usize, padding: T) -> Vec<T> {
    let rows = values.chunks(len.max(1));
    let mut spread = Vec::with_capacity(rows.len() * padded);
    for row in rows {
        spread.extend_from_slice(row);
        spread.resize(spread.len() + padded - len, padding);
    }
    spread
}

/// Fails on an id outside the vocabulary, in samples of `len` ids.
fn check(config: &ModelConfig, ids: &[u32], len: usize) -> Result<()> {
    let tokens = config.num_tokens;
    match ids.iter().position(|id| *id as usize >= tokens) {
        Some(at) => Err(Error::input(format!(
            "id {} at position {} of sample {} is outside the model's vocabulary of {tokens} (0 to {}); does the data \
             belong to this model?",
            ids[at],
            at % len,
            at / len,
            tokens - 1
        ))),
        None => Ok(()),
    }
}

/// The predicted id and the weight of each row of the local stage.
///
/// Row j of a sample is the output after reading byte j and predicts byte j + 1; byte 0 is
/// predicted by the start row.
pub(super) struct Targets {
    /// The predicted id of each row, (B · padded).
    pub(super) ids: Vec<u32>,
    /// The weight of each row's loss, (B · padded); 0 if its prediction does not count.
    pub(super) weights: Vec<f32>,
    /// Id and weight of the first byte of each sample.
    pub(super) first: Vec<(u32, f32)>,
    /// The number of predictions that count: target not padding, weight not 0.
    pub(super) count: usize,
}

impl Targets {
    /// Targets that all count, for a loss that is computed elsewhere.
    pub(super) fn all(ids: &PaddedIds) -> Self {
        Self {
            ids: ids.host.clone(),
            weights: vec![1.0; ids.host.len()],
            first: vec![(0, 1.0); ids.batch],
            count: ids.host.len() + ids.batch,
        }
    }

    /// Targets of all ids but padding, weighted by `mask`, one weight for each given id.
    pub(super) fn new(config: &ModelConfig, ids: &PaddedIds, mask: Option<&[f32]>) -> Result<Self> {
        let mask = mask.map(|mask| ids.per_byte("loss mask", mask, 0.0)).transpose()?;
        let mut targets = Self {
            ids: Vec::with_capacity(ids.host.len()),
            weights: Vec::with_capacity(ids.host.len()),
            first: Vec::with_capacity(ids.batch),
            count: 0,
        };
        for (sample, row) in ids.host.chunks(ids.padded.max(1)).enumerate() {
            let mut weight = |position: usize| {
                let counts = position < ids.len && row[position] != config.pad_token_id;
                let weight = match &mask {
                    Some(mask) if counts => mask[sample * ids.padded + position],
                    _ => f32::from(u8::from(counts)),
                };
                targets.count += usize::from(weight != 0.0);
                weight
            };
            targets.first.push((row[0], weight(0)));
            for (position, id) in row.iter().enumerate().skip(1) {
                targets.ids.push(*id);
                targets.weights.push(weight(position));
            }
            targets.ids.push(config.pad_token_id);
            targets.weights.push(0.0);
        }
        Ok(targets)
    }
}
