//! Distillation: a model learns what a larger one predicts. All logits of a batch at once, and
//! their gradient.

use mblm::Result;
use mblm::candle::{D, Tensor};
use mblm::model::{Gradients, Ids, Mblm, TrainingPass};
use mblm::train::{Adam, OptimizerSpec};

/// Teaches `student` what `teacher` predicts after each id: the mean KL(teacher ‖ student) before
/// each step.
pub(crate) fn distil(teacher: &Mblm, student: &Mblm, ids: Ids<'_>, steps: usize) -> Result<Vec<f64>> {
    let taught = softmax(&teacher.logits(ids)?)?; // (B, L, V)
    let rows = (taught.dim(0)? * taught.dim(1)?) as f64;
    let mut gradients = Gradients::zeros(student.parameters())?;
    let mut optimizer = Adam::default().build(student.parameters())?;
    let mut divergences = Vec::new();
    for _ in 0..steps {
        let forward = student.forward_train(ids, TrainingPass::default())?;
        let learned = softmax(forward.logits())?;
        let divergence = (&taught * (taught.log()? - learned.log()?)?)?.sum_all()?;
        divergences.push(f64::from(divergence.to_scalar::<f32>()?) / rows);
        let d_logits = ((learned - &taught)? / rows)?;
        forward.backward(&d_logits, None, &mut gradients)?;
        optimizer.step(&gradients, 3e-3, Some(1.0))?;
        gradients.clear()?;
    }
    Ok(divergences)
}

fn softmax(logits: &Tensor) -> Result<Tensor> {
    let exp = logits.broadcast_sub(&logits.max_keepdim(D::Minus1)?)?.exp()?;
    Ok(exp.broadcast_div(&exp.sum_keepdim(D::Minus1)?)?)
}

#[allow(dead_code, reason = "the tests include this file for its function, not its main")]
fn main() -> Result<()> {
    let model = |width: usize| -> Result<Mblm> {
        let config = serde_json::json!({
            "num_tokens": 257, "pad_token_id": 256, "train_checkpoint_chunks": null, "seq_lens": [64, 4],
            "hidden_dims": [width, width], "num_layers": [1, 1],
            "block": { "attn_head_dims": 8, "attn_num_heads": 2, "attn_use_rot_embs": true, "pos_emb_type": null }
        });
        let config = serde_json::from_value(config).map_err(|error| mblm::Error::config(error.to_string()))?;
        Mblm::seeded(&config, width as u64, &mblm::candle::Device::Cpu)
    };
    let (teacher, student) = (model(64)?, model(16)?);
    let text: Vec<u32> = "what the larger model would say".bytes().map(u32::from).collect();
    let divergences = distil(&teacher, &student, (&text).into(), 40)?;
    println!("KL in nats: {:.3} before, {:.3} after", divergences[0], divergences[39]);
    Ok(())
}
