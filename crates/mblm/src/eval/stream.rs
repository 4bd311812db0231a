//! The loss of each byte of a stream, given all bytes before it.
//!
//! The surprisal of a byte is −log₂ of its predicted probability. The model's state is carried
//! along, so memory does not grow with the length unless the first stage's state does.

use candle_core::Tensor;

use super::{Buckets, ByPosition, ByteScore};
use crate::Result;
use crate::bytes::ids_from_bytes;
use crate::generate::{Generator, GeneratorState};

/// Scores one stream, piece by piece.
pub struct StreamScores<'g> {
    generator: &'g Generator,
    state: GeneratorState,
    /// The logits (1, V) of the next byte.
    logits: Tensor,
    bytes: u64,
    bits: f64,
    by_position: Option<ByPosition>,
}

impl<'g> StreamScores<'g> {
    /// Begins a stream.
    ///
    /// # Errors
    /// A failing device.
    pub fn begin(generator: &'g Generator) -> Result<Self> {
        Ok(Self {
            generator,
            state: generator.begin(1),
            logits: generator.first_logits(1)?,
            bytes: 0,
            bits: 0.0,
            by_position: None,
        })
    }

    /// Also sums by position: the first byte, the second, then 2, 4, 8 bytes and so on.
    ///
    /// # Errors
    /// None in practice: a number can hold all positions.
    pub fn by_position(mut self) -> Result<Self> {
        self.by_position = Some(ByPosition::new(usize::MAX, Buckets::Doubling)?);
        Ok(self)
    }

    /// Returns the surprisal of each of the next bytes, in bits.
    ///
    /// # Errors
    /// Those of [`Generator::losses`].
    pub fn score(&mut self, piece: &[u8]) -> Result<Vec<f64>> {
        let ids = ids_from_bytes(piece);
        let nats = self.generator.losses(&mut self.state, &mut self.logits, &ids)?;
        let bits: Vec<f64> = nats
            .iter()
            .map(|nats| f64::from(*nats) / std::f64::consts::LN_2)
            .collect();
        if let Some(by_position) = &mut self.by_position {
            for ((offset, id), nats) in (self.bytes..).zip(&ids).zip(&nats) {
                by_position.count(&ByteScore {
                    offset,
                    id: *id,
                    position: usize::try_from(offset).unwrap_or(usize::MAX),
                    nats: f64::from(*nats),
                    weight: 1.0,
                });
            }
        }
        self.bytes += piece.len() as u64;
        self.bits += bits.iter().sum::<f64>();
        Ok(bits)
    }

    /// The number of bytes scored.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The sum of the surprisals.
    pub fn bits(&self) -> f64 {
        self.bits
    }

    /// The mean surprisal; NaN for no bytes.
    pub fn bits_per_byte(&self) -> f64 {
        self.bits / self.bytes as f64
    }

    /// The sums by position, if enabled.
    pub fn positions(&self) -> Option<&ByPosition> {
        self.by_position.as_ref()
    }
}
