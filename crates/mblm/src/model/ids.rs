//! A batch of byte ids, checked, padded to whole patches, and with what each row predicts.

use candle_core::{DType, Device, Tensor};

use crate::config::ModelConfig;
use crate::{Error, Result};

/// Ids that are converted at once.
const PIECE: usize = 1 << 20;

/// Ids of a batch: (B, L) padded on the right with the padding id to a multiple of the bytes of a stage-1 patch.
pub(super) struct Ids {
    /// All ids, (B · padded), on the model's device.
    pub(super) tensor: Tensor,
    pub(super) host: Vec<u32>,
    pub(super) batch: usize,
    /// Bytes of a sample as given.
    pub(super) len: usize,
    /// Bytes of a sample with padding.
    pub(super) padded: usize,
}

impl Ids {
    /// Takes ids of any integer type, flat (B, L) or nested (B, P1', P_2, …, P_N).
    pub(super) fn new(config: &ModelConfig, ids: &Tensor, device: &Device) -> Result<Self> {
        let stages = config.num_stages();
        let dims = ids.dims();
        let nested = dims.len() == stages + 1 && stages > 1;
        if dims.len() != 2 && !nested {
            return Err(Error::input(format!(
                "ids: expected shape (batch, length) or (batch, patches, {}), found {dims:?}",
                join(&config.seq_lens[1..])
            )));
        }
        if nested && dims[2..] != config.seq_lens[1..] {
            return Err(Error::input(format!(
                "nested ids: expected (batch, patches, {}), found {dims:?}; give (batch, length) to have them padded",
                join(&config.seq_lens[1..])
            )));
        }
        if !ids.dtype().is_int() {
            return Err(Error::input(format!("ids: expected integers, found {:?}", ids.dtype())));
        }
        let batch = dims[0];
        let len: usize = dims[1..].iter().product();
        let given = ids.to_device(&Device::Cpu)?.flatten_all()?;
        let padded = len.next_multiple_of(config.patch_bytes(0));
        let mut host = Vec::with_capacity(batch * padded);
        for sample in 0..batch {
            for from in (0..len).step_by(PIECE) {
                let piece = given.narrow(0, sample * len + from, PIECE.min(len - from))?;
                for (at, id) in piece.to_dtype(DType::I64)?.to_vec1::<i64>()?.into_iter().enumerate() {
                    match u32::try_from(id) {
                        Ok(id) if (id as usize) < config.num_tokens => host.push(id),
                        _ => return Err(out_of_range(id, sample, from + at, config.num_tokens)),
                    }
                }
            }
            host.resize(host.len() + padded - len, config.pad_token_id);
        }
        Ok(Self {
            tensor: Tensor::from_slice(&host, host.len(), device)?,
            host,
            batch,
            len,
            padded,
        })
    }

    /// The ids of `count` sequences from `first` on, (count, positions, bytes), of a stage whose sequences have this shape.
    pub(super) fn sequences(&self, first: usize, count: usize, positions: usize, bytes: usize) -> Result<Tensor> {
        let each = positions * bytes;
        Ok(self
            .tensor
            .narrow(0, first * each, count * each)?
            .reshape((count, positions, bytes))?)
    }

    /// A tensor (B, L) of one number a byte, with 0 for the bytes that padding added: (B · padded).
    pub(super) fn per_byte(&self, what: &str, values: &Tensor) -> Result<Vec<f32>> {
        let (batch, len) = (self.batch, self.len);
        if values.elem_count() != batch * len || values.dims().first() != Some(&batch) {
            return Err(Error::input(format!(
                "{what}: expected one value for each of ({batch}, {len}) ids, found shape {:?}",
                values.dims()
            )));
        }
        let values: Vec<f32> = values
            .to_device(&Device::Cpu)?
            .to_dtype(DType::F32)?
            .flatten_all()?
            .to_vec1()?;
        let mut spread = Vec::with_capacity(batch * self.padded);
        for row in values.chunks(len.max(1)) {
            spread.extend_from_slice(row);
            spread.resize(spread.len() + self.padded - len, 0.0);
        }
        Ok(spread)
    }
}

fn out_of_range(id: i64, sample: usize, position: usize, num_tokens: usize) -> Error {
    Error::input(format!(
        "id {id} at position {position} of sample {sample} is outside the model's vocabulary of {num_tokens} \
         (0 to {}); does the data belong to this model?",
        num_tokens - 1
    ))
}

fn join(numbers: &[usize]) -> String {
    let numbers: Vec<String> = numbers.iter().map(usize::to_string).collect();
    numbers.join(", ")
}

/// What each row of the local stage predicts, and with which weight.
///
/// Row j of a sample is the output after reading byte j and predicts byte j + 1; byte 0 is predicted by the start row.
pub(super) struct Targets {
    /// The predicted id of each row, (B · padded).
    pub(super) ids: Vec<u32>,
    /// The weight of each row's loss, (B · padded); 0 where nothing is predicted or the prediction does not count.
    pub(super) weights: Vec<f32>,
    /// Id and weight of the first byte of each sample.
    pub(super) first: Vec<(u32, f32)>,
    /// The number of predictions that count: target not padding, weight not 0.
    pub(super) count: usize,
}

impl Targets {
    /// Targets of all ids that are not padding, weighed with `mask`, which has the shape of the ids as they were given.
    pub(super) fn new(config: &ModelConfig, ids: &Ids, mask: Option<&Tensor>) -> Result<Self> {
        let mask = mask.map(|mask| ids.per_byte("loss mask", mask)).transpose()?;
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
