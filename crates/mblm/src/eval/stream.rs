//! The loss of each byte of a stream, given all bytes before it, however many.
//!
//! The surprisal of a byte is −log₂ of the probability that the model gives it. The model's state is carried on, so memory does not
//! grow with the length where the first stage's state does not.

use candle_core::Tensor;

use super::{Buckets, ByPosition, ByteScore};
use crate::Result;
use crate::bytes::ids_from_bytes;
use crate::generate::{Generator, GeneratorState};

/// Scores one stream, piece by piece.
pub struct StreamScores<'g> {
    generator: &'g Generator,
    state: GeneratorState,
    /// (1, V) of the next byte.
    logits: Tensor,
    bytes: u64,
    bits: f64,
    by_position: Option<ByPosition>,
}

impl<'g> StreamScores<'g> {
    /// At the beginning of a stream.
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

    /// The same with sums by position: of the first byte, the second, then 2, 4, 8 of them and so on.
    ///
    /// # Errors
    /// None in practice: the positions are bounded by what a number can hold.
    pub fn by_position(mut self) -> Result<Self> {
        self.by_position = Some(ByPosition::new(usize::MAX, Buckets::Doubling)?);
        Ok(self)
    }

    /// The surprisal of each of the next bytes, in bits.
    ///
    /// # Errors
    /// As [`Generator::losses`].
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

    /// How many bytes have been scored.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The sum of their surprisals.
    pub fn bits(&self) -> f64 {
        self.bits
    }

    /// The mean of their surprisals; not a number for no bytes.
    pub fn bits_per_byte(&self) -> f64 {
        self.bits / self.bytes as f64
    }

    /// The sums by position, if they were asked for.
    pub fn positions(&self) -> Option<&ByPosition> {
        self.by_position.as_ref()
    }
}
