//! What holds for every model: causality, padding, independence of batch rows, any split, any
//! grouping.

mod support;

use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use mblm::blocks::BlockRegistry;
use mblm::config::ModelConfig;
use mblm::model::{Chunking, Gradients, Loss, Mblm, ModelBatch, Seeded, TrainingPass};
use mblm_ops::relative_error;
use proptest::prelude::*;
use serde_json::{Value, json};

fn transformer(position: Option<&str>) -> Value {
    json!({ "block_type": "transformer", "pos_emb_type": position, "attn_head_dims": 4, "attn_num_heads": 2,
            "attn_use_rot_embs": true })
}

fn mamba(kind: &str) -> Value {
    json!({ "block_type": kind, "pos_emb_type": null, "d_state": 4, "d_conv": 4, "expand": 2, "headdim": 8 })
}

/// Models of 1 to 4 stages in which every block is at the top, in the middle and at the bottom at
/// least once.
fn configs() -> Vec<(&'static str, Value, Vec<usize>)> {
    vec![
        ("1D transformer", json!([transformer(Some("fixed"))]), vec![80]),
        ("1D mamba2", json!([mamba("mamba2")]), vec![80]),
        ("1D mamba1", json!([mamba("mamba1")]), vec![80]),
        (
            "2D mamba2 transformer",
            json!([mamba("mamba2"), transformer(Some("fixed"))]),
            vec![20, 4],
        ),
        (
            "2D mamba1 mamba2",
            json!([mamba("mamba1"), mamba("mamba2")]),
            vec![20, 4],
        ),
        (
            "2D transformer mamba1",
            json!([transformer(Some("rope")), mamba("mamba1")]),
            vec![16, 5],
        ),
        (
            "3D transformer mamba1 transformer",
            json!([transformer(None), mamba("mamba1"), transformer(Some("rope"))]),
            vec![7, 4, 3],
        ),
        (
            "4D mamba2 transformer mamba2 mamba1",
            json!([
                mamba("mamba2"),
                transformer(Some("fixed")),
                mamba("mamba2"),
                mamba("mamba1")
            ]),
            vec![4, 3, 2, 4],
        ),
        (
            "3D with dropout",
            json!([
                with_dropout(mamba("mamba2")),
                with_dropout(transformer(None)),
                with_dropout(transformer(Some("fixed")))
            ]),
            vec![5, 4, 3],
        ),
    ]
}

/// The block with every dropout that it has.
fn with_dropout(mut block: Value) -> Value {
    let keys: &[&str] = match block["block_type"] == "transformer" {
        true => &["attn_dropout", "ff_dropout"],
        false => &["dropout"],
    };
    for key in keys {
        block[key] = json!(0.3);
    }
    block
}

fn build(blocks: &Value, seq_lens: &[usize], chunks: Option<Vec<usize>>, dtype: DType) -> Arc<Mblm> {
    let stages = seq_lens.len();
    let config: ModelConfig = serde_json::from_value(json!({
        "num_tokens": 257, "pad_token_id": 256, "hidden_dims": vec![8; stages], "num_layers": vec![2; stages],
        "seq_lens": seq_lens, "train_checkpoint_chunks": chunks, "block": blocks,
    }))
    .expect("a valid configuration");
    Mblm::new(&config, &BlockRegistry::default(), &Seeded(1), dtype, &Device::Cpu)
        .expect("the model builds")
        .into()
}

fn models(dtype: DType) -> Vec<(&'static str, Arc<Mblm>)> {
    let configs = configs().into_iter();
    configs
        .map(|(name, blocks, seq_lens)| (name, build(&blocks, &seq_lens, None, dtype)))
        .collect()
}

#[test]
fn forward_equals_prefill_and_steps_for_any_split() {
    for (name, model) in models(DType::F64) {
        println!("{name}");
        let splits: Vec<usize> = (1..=61).collect();
        support::check_splits(&model, 61, &splits);
    }
}

#[test]
fn forward_equals_prefill_and_steps_in_float32() {
    for (name, model) in models(DType::F32) {
        println!("{name}");
        support::check_splits(&model, 61, &[1, 12, 13, 30, 61]);
    }
}

#[test]
fn prefill_in_pieces_equals_prefill_at_once() {
    use mblm::generate::Generator;
    for (name, model) in models(DType::F64) {
        let row = support::ids(1, 70, 256, 2).ids;
        let generator = Generator::new(model.clone()).expect("a generator");
        let mut once = generator.begin(1);
        let expected = generator.prefill(&mut once, &[&row]).expect("prefill");
        for piece in [1, 3, 5, 17, 64] {
            let mut state = generator.begin(1);
            let mut logits = None;
            for part in row.chunks(piece) {
                logits = Some(generator.prefill(&mut state, &[part]).expect("prefill"));
            }
            let error = relative_error(&logits.expect("at least one piece"), &expected, 0.0).expect("equal shapes");
            assert!(error < 1e-11, "{name}, pieces of {piece}: {error:.2e}");
        }
    }
}

#[test]
fn gradients_equal_finite_differences() {
    for (name, model) in models(DType::F64) {
        println!("{name}");
        support::check_gradients(&model, 2);
    }
}

#[test]
fn changing_a_byte_changes_no_earlier_prediction() {
    for (name, model) in models(DType::F32) {
        let ids = support::ids(1, 50, 256, 3);
        let before = model.logits(&ids).expect("logits");
        for byte in [0, 1, 3, 4, 11, 12, 24, 49] {
            let mut changed = ids.clone();
            changed.ids[byte] = (changed.ids[byte] + 1) % 256;
            let after = model.logits(&changed).expect("logits");
            // row j predicts byte j + 1: rows before `byte` have not seen it
            let same = |t: &Tensor| {
                t.narrow(1, 0, byte)
                    .and_then(|t| t.flatten_all()?.to_vec1::<f32>())
                    .expect("rows")
            };
            assert_eq!(
                same(&before),
                same(&after),
                "{name}: byte {byte} reached an earlier row"
            );
            let row = |t: &Tensor| t.get(0).and_then(|t| t.get(byte)?.to_vec1::<f32>()).expect("a row");
            assert_ne!(
                row(&before),
                row(&after),
                "{name}: byte {byte} does not reach its own row"
            );
        }
    }
}

#[test]
fn padding_changes_no_real_byte() {
    for (name, model) in models(DType::F64) {
        let ids = support::ids(1, 24, 256, 4);
        let long = model.logits(&ids).expect("logits");
        for len in [1, 5, 13, 23] {
            let short = model.logits(&ids.ids[..len]).expect("logits");
            assert_eq!(short.dims(), [1, len, 257]);
            let error = relative_error(&short, &long.narrow(1, 0, len).expect("rows"), 0.0).expect("equal shapes");
            assert!(error < 1e-12, "{name}: {error:.2e}");
        }
    }
}

#[test]
fn batch_rows_do_not_influence_one_another() {
    for (name, model) in models(DType::F64) {
        let ids = support::ids(3, 24, 256, 5);
        let together = model.logits(&ids).expect("logits");
        for row in 0..3 {
            let alone = model.logits(&support::sample(&ids, row)).expect("logits");
            let error = relative_error(&together.narrow(0, row, 1).expect("a row"), &alone, 0.0).expect("equal shapes");
            assert!(error < 1e-12, "{name}: {error:.2e}");
        }
    }
}

#[test]
fn losses_are_those_of_the_logits() {
    for (name, model) in models(DType::F64) {
        let ids = support::ids(2, 25, 256, 6);
        let rows: Vec<&[u32]> = ids.ids.chunks(ids.len).collect();
        let losses: Vec<Vec<f64>> = model.losses(&ids).and_then(|t| Ok(t.to_vec2()?)).expect("losses");
        let logits: Vec<Vec<Vec<f64>>> = model.logits(&ids).and_then(|t| Ok(t.to_vec3()?)).expect("logits");
        let first: Vec<f64> = model.first_logits().and_then(|t| Ok(t.to_vec1()?)).expect("logits");
        for (sample, row) in rows.iter().enumerate() {
            for (position, id) in row.iter().enumerate() {
                let logits = if position == 0 {
                    &first
                } else {
                    &logits[sample][position - 1]
                };
                let total: f64 = logits.iter().map(|x| x.exp()).sum();
                let expected = total.ln() - logits[*id as usize];
                let found = losses[sample][position];
                assert!(
                    (found - expected).abs() < 1e-10,
                    "{name} [{position}]: {found} {expected}"
                );
            }
        }
        let mean = losses.iter().flatten().sum::<f64>() / 50.0;
        assert!((model.loss(&ids, None).expect("loss").mean - mean).abs() < 1e-6);
    }
}

#[test]
fn given_embeddings_equal_ids() {
    for (name, model) in models(DType::F64) {
        let seq_lens = model.config().seq_lens.clone();
        let patch: usize = seq_lens[1..].iter().product();
        let ids = support::ids(2, 2 * patch, 256, 7);
        let expected = model.hidden_states(&ids).expect("hidden states");
        let embedded = model.embed(&ids).expect("embeddings");
        let found = model.hidden_states_from_embeddings(&embedded).expect("hidden states");
        assert!(
            relative_error(&found, &expected, 0.0).expect("equal shapes") < 1e-13,
            "{name}"
        );
    }
}

/// Loss and gradients of a model, the first stage in chunks.
fn pass(model: &Mblm, ids: &ModelBatch, chunking: Chunking) -> (Loss, Gradients) {
    let mut gradients = Gradients::zeros(model.parameters()).expect("buffers");
    let pass = TrainingPass {
        chunking,
        ..TrainingPass::default()
    };
    let loss = model
        .loss_and_gradients(ids, None, pass, &mut gradients)
        .expect("a training pass");
    (loss, gradients)
}

#[test]
fn chunks_in_float32_give_the_gradients_of_the_whole() {
    for (name, model) in models(DType::F32) {
        let ids = support::ids(2, 60, 256, 8);
        let (whole, expected) = pass(&model, &ids, Chunking::default());
        for positions in [1, 2, 3, 5, 64] {
            let chunks = Chunking {
                positions: Some(positions),
                rows: Some(7),
            };
            let (loss, found) = pass(&model, &ids, chunks);
            assert!((loss.mean - whole.mean).abs() < 1e-5, "{name}");
            for ((expected, found), parameter) in expected.iter().zip(found.iter()).zip(model.parameters().iter()) {
                let error = relative_error(found.tensor(), expected.tensor(), 1e-6).expect("equal shapes");
                assert!(error < 1e-5, "{name}, {}: {error:.2e}", parameter.name());
            }
        }
    }
}

/// Shards of samples, shards of sequences below one sample's first stage and below chunks of it,
/// and none, in that order.
#[test]
fn shards_give_the_gradients_of_the_whole_on_any_number_of_threads() {
    let whole = Chunking {
        rows: Some(1 << 20), // whoever says how many rows gets no shards
        ..Chunking::default()
    };
    for (name, blocks, seq_lens, batch) in [
        (
            "samples",
            json!([mamba("mamba2"), transformer(Some("fixed"))]),
            vec![300, 8],
            4,
        ),
        ("one stage", json!([transformer(Some("rope"))]), vec![1024], 2),
        (
            "dropout",
            json!([transformer(None), with_dropout(transformer(None))]),
            vec![512, 4],
            2,
        ),
        (
            "sequences",
            json!([mamba("mamba1"), transformer(None), transformer(None)]),
            vec![128, 8, 4],
            1,
        ),
        (
            "chunks",
            json!([transformer(Some("rope")), mamba("mamba1")]),
            vec![1024, 4],
            1,
        ),
    ] {
        let model = build(&blocks, &seq_lens, None, DType::F64);
        let ids = support::ids(batch, seq_lens.iter().product(), 257, 10);
        let positions = (name == "chunks").then_some(600);
        let on_threads = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
            pool.expect("threads")
                .install(|| pass(&model, &ids, Chunking { positions, rows: None }))
        };
        let ((loss, found), (loss_of_one, of_one), (expected_loss, expected)) =
            (on_threads(3), on_threads(1), pass(&model, &ids, whole));
        assert_eq!(loss, loss_of_one, "{name}");
        assert!((loss.mean - expected_loss.mean).abs() < 1e-9, "{name}");
        let buffers = found
            .iter()
            .zip(of_one.iter())
            .zip(expected.iter())
            .zip(model.parameters().iter());
        let mut differ = false;
        for (((found, of_one), expected), parameter) in buffers {
            let name = format!("{name}, {}", parameter.name());
            assert_eq!(values(found.tensor()), values(of_one.tensor()), "{name}");
            let error = relative_error(found.tensor(), expected.tensor(), 1e-9).expect("equal shapes");
            assert!(error < 1e-11, "{name}: {error:.2e}");
            differ |= error > 0.0;
        }
        assert!(
            differ,
            "{name}: sums of shards round otherwise than one sum, so there have been none"
        );
    }
}

fn values(tensor: &Tensor) -> Vec<f64> {
    tensor
        .flatten_all()
        .and_then(|flat| flat.to_vec1())
        .expect("f64 values")
}

#[test]
fn the_loss_of_a_long_input_is_that_of_training_which_has_it_at_once() {
    for (blocks, seq_lens) in [
        (json!([transformer(Some("rope"))]), vec![5000]),
        (json!([mamba("mamba1"), mamba("mamba2")]), vec![4500, 2]),
    ] {
        let model = build(&blocks, &seq_lens, None, DType::F64);
        let ids = support::ids(2, seq_lens.iter().product(), 256, 9);
        let (expected, _) = pass(&model, &ids, Chunking::default());
        let found = model.loss(&ids, None).expect("a loss");
        assert_eq!(found.count, expected.count);
        let error = (found.mean - expected.mean).abs();
        assert!(error < 1e-7, "{seq_lens:?}: {error:.1e}"); // losses are summed from f32
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// So do any chunks of the first stage's positions, whether they divide them or not.
    #[test]
    fn chunks_change_no_gradient(
        model in 0usize..9, batch in 1usize..4, len in 1usize..60, positions in 1usize..20, rows in 1usize..40,
    ) {
        let (name, blocks, seq_lens) = configs().swap_remove(model);
        let ids = support::ids(batch, len, 257, (len * 37 + batch) as u64); // some ids are padding
        let model = build(&blocks, &seq_lens, None, DType::F64);
        let (whole, expected) = pass(&model, &ids, Chunking::default());
        let (loss, found) = pass(&model, &ids, Chunking { positions: Some(positions), rows: Some(rows) });
        prop_assert!((whole.mean - loss.mean).abs() < 1e-12);
        prop_assert_eq!(whole.count, loss.count);
        for ((expected, found), parameter) in expected.iter().zip(found.iter()).zip(model.parameters().iter()) {
            let error = relative_error(found.tensor(), expected.tensor(), 1e-9).expect("equal shapes");
            prop_assert!(error < 1e-11, "{}, {}: {:.2e}", name, parameter.name(), error);
        }
    }

    /// Any grouping of the lower stages' sequences gives the same loss and gradients.
    #[test]
    fn checkpoint_chunks_change_no_gradient(
        model in 3usize..9, batch in 1usize..4, len in 1usize..60, first in 1usize..9, second in 1usize..9,
    ) {
        let (name, blocks, seq_lens) = configs().swap_remove(model);
        let chunks = [first, second, 3][..seq_lens.len() - 1].to_vec();
        let ids = support::ids(batch, len, 257, (len * 31 + batch) as u64); // some ids are padding
        let run = |chunks| {
            let model = build(&blocks, &seq_lens, chunks, DType::F64);
            let mut gradients = Gradients::zeros(model.parameters()).expect("buffers");
            let loss = model
                .loss_and_gradients(&ids, None, TrainingPass::default(), &mut gradients)
                .expect("a training pass");
            (model, loss, gradients)
        };
        let (model, whole, expected) = run(None);
        let (_, chunked, found) = run(Some(chunks));
        prop_assert!((whole.mean - chunked.mean).abs() < 1e-12);
        prop_assert_eq!(whole.count, chunked.count);
        let pairs = expected.iter().zip(found.iter()).zip(model.parameters().iter());
        for ((expected, found), parameter) in pairs {
            let error = relative_error(found.tensor(), expected.tensor(), 1e-9).expect("equal shapes");
            prop_assert!(error < 1e-11, "{}, {}: {:.2e}", name, parameter.name(), error);
        }
    }
}
