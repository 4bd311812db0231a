//! Losses of one's own: distillation from all logits at once, a weighted loss of two tasks row by
//! row.

#[path = "../examples/distillation.rs"]
mod distillation;
#[path = "../examples/multi_task.rs"]
mod multi_task;
mod support;

use candle_core::{D, DType, Device, Tensor};
use mblm::blocks::BlockRegistry;
use mblm::config::ModelConfig;
use mblm::model::{Chunking, Gradients, Mblm, ModelBatch, Seeded, TrainingPass};
use mblm_ops::relative_error;
use multi_task::BytesAndClasses;
use serde_json::json;

/// Two stages, and dropout of so much in both.
fn model(width: usize, dropout: f64, dtype: DType) -> Mblm {
    let mamba = json!({ "block_type": "mamba2", "pos_emb_type": null, "d_state": 4, "d_conv": 4, "expand": 2, "headdim": 8,
                        "dropout": dropout });
    let transformer = json!({ "block_type": "transformer", "pos_emb_type": "fixed", "attn_head_dims": 4, "attn_num_heads": 2,
                              "attn_use_rot_embs": true, "attn_dropout": dropout, "ff_dropout": dropout });
    let config: ModelConfig = serde_json::from_value(json!({
        "num_tokens": 257, "pad_token_id": 256, "hidden_dims": [width, width], "num_layers": [1, 1], "seq_lens": [20, 4],
        "train_checkpoint_chunks": null, "block": [mamba, transformer],
    }))
    .expect("a valid configuration");
    Mblm::new(&config, &BlockRegistry::default(), &Seeded(1), dtype, &Device::Cpu).expect("the model builds")
}

fn zeros(model: &Mblm) -> Gradients {
    Gradients::zeros(model.parameters()).expect("buffers")
}

#[track_caller]
fn assert_equal(model: &Mblm, found: &Gradients, expected: &Gradients) {
    for ((found, expected), parameter) in found.iter().zip(expected.iter()).zip(model.parameters().iter()) {
        let error = relative_error(found.tensor(), expected.tensor(), 1e-9).expect("equal shapes");
        assert!(error < 1e-10, "{}: {error:.2e}", parameter.name());
    }
}

#[test]
fn a_small_model_learns_what_a_larger_one_predicts() {
    let (teacher, student) = (model(32, 0.0, DType::F32), model(8, 0.0, DType::F32));
    let ids = support::ids(2, 40, 256, 3);
    let divergences = distillation::distil(&teacher, &student, (&ids).into(), 30).expect("training");
    assert!(divergences[29] < 0.7 * divergences[0], "{divergences:?}");
}

#[test]
fn the_gradients_of_an_objective_equal_finite_differences() {
    let objective = BytesAndClasses::new(0.7, 257, &Device::Cpu).expect("an objective");
    for dropout in [0.0, 0.3] {
        let model = model(8, dropout, DType::F64);
        support::check_gradients_of(&model, 2, |ids, weights, gradients| {
            let pass = TrainingPass::default();
            model
                .objective_and_gradients(ids, Some(weights), &objective, pass, gradients)
                .expect("a training pass")
                .mean
        });
    }
}

/// Chunks of the first stage, groups, and all at once.
#[test]
fn an_objective_gives_the_same_whatever_is_computed_at_once() {
    let objective = BytesAndClasses::new(0.7, 257, &Device::Cpu).expect("an objective");
    let (model, ids) = (model(8, 0.0, DType::F64), support::ids(2, 50, 256, 4));
    let pass = |positions, rows| {
        let mut gradients = zeros(&model);
        let pass = TrainingPass {
            chunking: Chunking { positions, rows },
            ..TrainingPass::default()
        };
        model
            .objective_and_gradients(&ids, None, &objective, pass, &mut gradients)
            .expect("a training pass");
        gradients
    };
    let whole = pass(None, None);
    assert_equal(&model, &pass(Some(5), Some(7)), &whole);
    assert_equal(&model, &pass(None, Some(8)), &whole);
}

/// softmax − one-hot, which is the gradient of the cross-entropy, divided by the number of
/// predictions; rows in the order of the bytes that they predict.
fn d_cross_entropy(logits: &Tensor, targets: &[u32], count: usize) -> Tensor {
    let gradient = || -> candle_core::Result<Tensor> {
        let exp = logits.broadcast_sub(&logits.max_keepdim(D::Minus1)?)?.exp()?;
        let softmax = exp.broadcast_div(&exp.sum_keepdim(D::Minus1)?)?;
        let one_hot: Vec<f64> = targets
            .iter()
            .flat_map(|target| (0..257).map(move |id| f64::from(u8::from(id == *target))))
            .collect();
        let one_hot = Tensor::from_vec(one_hot, logits.shape(), &Device::Cpu)?;
        (softmax - one_hot)? / count as f64
    };
    gradient().expect("tensors of one shape")
}

#[test]
fn forward_and_backward_equal_a_pass_at_once() {
    for dropout in [0.0, 0.3] {
        let model = model(8, dropout, DType::F64);
        let ids: ModelBatch = support::ids(2, 30, 256, 5);
        let pass = TrainingPass {
            seed: 9,
            scale: 0.25,
            ..TrainingPass::default()
        };
        let mut expected = zeros(&model);
        model
            .loss_and_gradients(&ids, None, pass.clone(), &mut expected)
            .expect("a training pass");

        let forward = model.forward_train(&ids, pass).expect("a forward pass");
        if dropout == 0.0 {
            let logits = model.logits(&ids).expect("logits");
            assert!(relative_error(forward.logits(), &logits, 0.0).expect("equal shapes") < 1e-12);
            let hidden = model.hidden_states(&ids).expect("hidden states");
            let found = forward.hidden_states().expect("hidden states");
            assert!(relative_error(&found, &hidden, 0.0).expect("equal shapes") < 1e-12);
        }
        let rows: Vec<&[u32]> = ids.ids.chunks(30).collect();
        let firsts: Vec<u32> = rows.iter().map(|row| row[0]).collect();
        let inner = forward.logits().narrow(1, 0, 29).expect("rows"); // the last row predicts nothing
        let inner_targets: Vec<u32> = rows.iter().flat_map(|row| row[1..].to_vec()).collect();
        let d_logits = d_cross_entropy(&inner, &inner_targets, 60)
            .pad_with_zeros(1, 0, 1)
            .expect("rows");
        let d_first = d_cross_entropy(forward.first_logits(), &firsts, 60);
        let mut found = zeros(&model);
        forward
            .backward(&d_logits, Some(&d_first), &mut found)
            .expect("a backward pass");
        assert_equal(&model, &found, &expected);
    }
}

#[test]
fn gradients_of_another_shape_are_refused() {
    let model = model(8, 0.0, DType::F32);
    let forward = model
        .forward_train(&[1, 2, 3], TrainingPass::default())
        .expect("a forward pass");
    let wrong = Tensor::zeros((1, 4, 257), DType::F32, &Device::Cpu).expect("a tensor");
    let error = forward
        .backward(&wrong, None, &mut zeros(&model))
        .expect_err("4 rows for 3");
    assert!(error.to_string().contains("[1, 3, 257]"), "{error}");
    assert!(model.forward_train(&[], TrainingPass::default()).is_err());
}
