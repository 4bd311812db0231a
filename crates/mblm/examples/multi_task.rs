//! A weighted loss of two tasks: the next byte, and the class of the next byte (letter, digit,
//! space or another).

use mblm::Result;
use mblm::candle::{D, DType, Device, Tensor};
use mblm::model::{CrossEntropy, Gradients, LogitRows, Mblm, Objective, RowGradients, TrainingPass};

/// Cross-entropy of bytes plus `weight` times that of their classes: w · −ln Σ softmax(logits) over
/// the ids of the right class.
pub(crate) struct BytesAndClasses {
    weight: f64,
    /// (V, V): 1 where two ids are of one class.
    same: Tensor,
}

impl BytesAndClasses {
    pub(crate) fn new(weight: f64, vocabulary: u32, device: &Device) -> Result<Self> {
        let class = |id: u32| match char::from_u32(id).filter(char::is_ascii) {
            Some(byte) if byte.is_alphabetic() => 0,
            Some(byte) if byte.is_numeric() => 1,
            Some(byte) if byte.is_whitespace() => 2,
            _ => 3,
        };
        let pairs = (0..vocabulary).flat_map(|a| (0..vocabulary).map(move |b| u8::from(class(a) == class(b))));
        let same = Tensor::from_iter(pairs, device)?.reshape((vocabulary as usize, vocabulary as usize))?;
        Ok(Self { weight, same })
    }
}

impl Objective for BytesAndClasses {
    fn rows(&self, rows: &LogitRows<'_>) -> Result<RowGradients> {
        let (logits, dtype) = (rows.logits, rows.logits.dtype());
        let exp = logits.broadcast_sub(&logits.max_keepdim(D::Minus1)?)?.exp()?;
        let all = exp.broadcast_div(&exp.sum_keepdim(D::Minus1)?)?; // softmax (m, V)
        let right = (&all * self.same.index_select(rows.targets, 0)?.to_dtype(dtype)?)?; // 0 in other classes
        let class = right.sum_keepdim(D::Minus1)?; // (m, 1)
        let weights = (rows.weights.to_dtype(dtype)?.unsqueeze(1)? * self.weight)?;
        let loss = (class.log()?.neg()? * &weights)?.sum_all()?.to_dtype(DType::F64)?;
        let d_logits = (all - right.broadcast_div(&class)?)?.broadcast_mul(&weights)?;
        let bytes = CrossEntropy.rows(rows)?;
        Ok(RowGradients {
            loss: (bytes.loss + loss)?,
            d_logits: (bytes.d_logits + (d_logits * rows.scale)?)?,
        })
    }
}

#[allow(dead_code, reason = "the tests include this file for its objective, not its main")]
fn main() -> Result<()> {
    let config = serde_json::json!({
        "num_tokens": 257, "pad_token_id": 256, "train_checkpoint_chunks": null, "seq_lens": [64, 4],
        "hidden_dims": [32, 32], "num_layers": [1, 1],
        "block": { "attn_head_dims": 8, "attn_num_heads": 2, "attn_use_rot_embs": true, "pos_emb_type": null }
    });
    let config = serde_json::from_value(config).map_err(|error| mblm::Error::config(error.to_string()))?;
    let model = Mblm::seeded(&config, 1, &Device::Cpu)?;
    let (objective, mut gradients) = (
        BytesAndClasses::new(0.5, 257, &Device::Cpu)?,
        Gradients::zeros(model.parameters())?,
    );
    let text: Vec<u32> = "two tasks, 1 loss".bytes().map(u32::from).collect();
    let pass = TrainingPass::default();
    let loss = model.objective_and_gradients(&text, None, &objective, pass, &mut gradients)?;
    println!("{:.3} nats a byte", loss.mean);
    Ok(())
}
