//! Scores against a byte-by-byte computation, and against the losses of training.

use std::sync::Arc;

use candle_core::Device;
use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::blocks::BlockRegistry;
use crate::config::{Architecture, ModelConfig};
use crate::data::{Batch, Dataset, DatasetArgs, Loader, LoaderOptions, Masking, Order, Sample, Split};
use crate::model::{Mblm, Model, Seeded};
use crate::task::TaskRegistry;
use crate::train::model_batch;

/// Two stages of width 8 without a position limit, 12 bytes of context.
fn decoder() -> Mblm {
    let config: ModelConfig = serde_json::from_value(json!({
        "num_tokens": 257, "pad_token_id": 256, "train_checkpoint_chunks": null,
        "seq_lens": [4, 3], "hidden_dims": [8, 8], "num_layers": [1, 1],
        "block": { "attn_head_dims": 4, "attn_num_heads": 2, "attn_use_rot_embs": true, "pos_emb_type": null }
    }))
    .unwrap();
    Mblm::seeded(&config, 3, &Device::Cpu).unwrap()
}

fn encoder() -> Model {
    let architecture: Architecture = serde_json::from_value(json!({
        "mask_token_id": 257, "mask_reduce_strat": "any",
        "mblm_config": {
            "num_tokens": 258, "pad_token_id": 256, "train_checkpoint_chunks": null,
            "seq_lens": [4, 3], "hidden_dims": [8, 8], "num_layers": [1, 1],
            "block": { "attn_head_dims": 4, "attn_num_heads": 2,
                       "attn_use_rot_embs": true, "pos_emb_type": null }
        }
    }))
    .unwrap();
    Model::new(&architecture, &BlockRegistry::default(), &Seeded(3), &Device::Cpu).unwrap()
}

fn windows(model: &Mblm, bytes: &[u8], options: EvalOptions) -> Vec<ByteScore> {
    let groups = Windows::new(model, bytes, options).unwrap();
    groups.collect::<Result<Vec<_>>>().unwrap().concat()
}

/// The loss of the last byte, given the others.
fn last_loss(model: &Mblm, bytes: &[u8]) -> f64 {
    let ids: Vec<u32> = bytes.iter().map(|byte| u32::from(*byte)).collect();
    let losses = to_host(&model.losses(&ids).unwrap()).unwrap();
    f64::from(losses[bytes.len() - 1])
}

fn close(a: f64, b: f64) -> bool {
    (a - b).abs() <= 1e-4 * (1.0 + a.abs())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn every_byte_is_scored_once_with_the_context_that_its_window_gives(
        bytes in prop::collection::vec(any::<u8>(), 0..50),
        (context, stride) in (1usize..20).prop_flat_map(|context| (Just(context), 1..=context)),
        batch_size in 1usize..5,
    ) {
        let model = decoder();
        let scores = windows(&model, &bytes, EvalOptions { context, stride, batch_size });
        prop_assert_eq!(scores.len(), bytes.len());
        for (index, score) in scores.iter().enumerate() {
            // the first window that contains the byte
            let begin = (index + 1).saturating_sub(context).div_ceil(stride) * stride;
            prop_assert_eq!(score.offset, index as u64);
            prop_assert_eq!(score.id, u32::from(bytes[index]));
            prop_assert_eq!(score.position, index - begin);
            prop_assert!(begin == 0 || score.position >= context - stride);
            let expected = last_loss(&model, &bytes[begin..=index]);
            prop_assert!(close(score.nats, expected), "byte {}: {} {}", index, score.nats, expected);
        }
    }

    #[test]
    fn buckets_recombine_to_the_total(context in 2usize..300, count in 1usize..300, seed in any::<u64>()) {
        let buckets = [Buckets::Doubling, Buckets::Equal(count.min(context))];
        for buckets in buckets {
            let (mut by_position, mut total) = (ByPosition::new(context, buckets).unwrap(), Score::default());
            for offset in 0..context as u64 * 3 {
                let nats = (seed.wrapping_mul(offset + 1) % 1000) as f64 / 100.0;
                let position = offset as usize % context;
                let score = ByteScore { offset, id: 0, position, nats, weight: 1.0 };
                by_position.count(&score);
                total.count(&score);
            }
            let (mut end, mut sum) = (0, Score::default());
            for (positions, score) in by_position.rows() {
                prop_assert_eq!(positions.start, end);
                prop_assert_eq!(score.bytes, 3 * positions.len() as u64);
                end = positions.end;
                sum.add(score);
            }
            prop_assert_eq!(end, context);
            prop_assert_eq!(sum.bytes, total.bytes);
            prop_assert!(close(sum.nats, total.nats));
        }
    }
}

#[test]
fn doubling_buckets_end_at_powers_of_two() {
    let mut by_position = ByPosition::new(11, Buckets::Doubling).unwrap();
    for position in [0, 1, 2, 3, 4, 7, 8, 10] {
        by_position.count(&ByteScore {
            offset: 0,
            id: 0,
            position,
            nats: position as f64,
            weight: 1.0,
        });
    }
    let rows: Vec<_> = by_position
        .rows()
        .map(|(positions, score)| (positions, score.bytes, score.nats))
        .collect();
    let expected = [
        (0..1, 1, 0.0),
        (1..2, 1, 1.0),
        (2..4, 2, 5.0),
        (4..8, 2, 11.0),
        (8..11, 2, 18.0),
    ];
    assert_eq!(rows, expected);
}

#[test]
fn senseless_options_are_errors() {
    let model = decoder();
    let message = |context, stride, batch_size| {
        let options = EvalOptions {
            context,
            stride,
            batch_size,
        };
        Windows::new(&model, &b""[..], options).err().unwrap().to_string()
    };
    assert!(message(8, 9, 1).contains("a stride of 9 bytes: expected 1 to the context, which is 8"));
    assert!(message(8, 0, 1).contains("a stride of 0 bytes"));
    assert!(message(0, 0, 1).contains("expected at least 1"));
    assert!(message(8, 8, 0).contains("0 windows at once"));
    let message = |context, buckets| ByPosition::new(context, buckets).err().unwrap().to_string();
    assert!(message(1, Buckets::Doubling).contains("at least 2 bytes, found 1"));
    assert!(message(8, Buckets::Equal(9)).contains("expected 1 to 8 buckets"));
    assert!(message(8, Buckets::Equal(0)).contains("found 0"));
}

#[test]
fn a_split_scores_as_the_same_bytes_in_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("numbers");
    let bytes: Vec<u8> = (0..100u32).map(|index| (index * index % 251) as u8).collect();
    std::fs::write(&path, &bytes).unwrap();
    let mut args = DatasetArgs::new(&path, Split::Train, 12);
    args.options.insert("held_out".into(), json!(0));
    let model = Model::Decoder(std::sync::Arc::new(decoder()));
    let split = |batch_size, max_samples| -> Vec<ByteScore> {
        let dataset = TaskRegistry::default().open("bytes", &args).unwrap().unwrap();
        let groups = SplitScores::new(&model, dataset, batch_size, max_samples).unwrap();
        groups.collect::<Result<Vec<_>>>().unwrap().concat()
    };
    // 8 samples; the remaining 4 bytes are not a sample
    let file = windows(model.decoder("").unwrap(), &bytes[..96], EvalOptions::new(12));
    for batch_size in [1, 3, 8, 20] {
        let scores = split(batch_size, None);
        assert_eq!(scores.len(), 96);
        for (a, b) in scores.iter().zip(&file) {
            assert_eq!(
                (a.offset, a.id, a.position, a.weight),
                (b.offset, b.id, b.position, b.weight)
            );
            assert!(close(a.nats, b.nats));
        }
    }
    assert_eq!(split(3, Some(4)).len(), 48);
}

/// Samples with weights and padding.
struct Weighted;

impl Dataset for Weighted {
    fn len(&self, _: usize) -> usize {
        5
    }

    fn sample(&self, index: usize, _: usize) -> Result<Sample> {
        let mut ids: Vec<u32> = (0..12).map(|position| (position * 7 + index as u32) % 256).collect();
        ids[10..].fill(256);
        Ok(Sample {
            ids,
            loss_weights: Some((0..12).map(|position| (position % 3) as f32 * 0.5).collect()),
            ..Sample::default()
        })
    }

    fn bytes(&self) -> u64 {
        60
    }

    fn describe(&self) -> String {
        "weighted".into()
    }
}

/// Count and sum of the training losses of all batches.
fn as_in_training(model: &Model, dataset: Arc<dyn Dataset>) -> Score {
    let mut score = Score::default();
    for batch in Loader::new(dataset, LoaderOptions::evaluation(2, Order::Sequential)).unwrap() {
        let batch: Batch = batch.unwrap();
        let loss = model.loss(&model_batch(&batch)).unwrap();
        score.add(Score {
            bytes: loss.count as u64,
            nats: loss.mean * loss.count as f64,
        });
    }
    score
}

#[test]
fn weights_padding_and_masks_count_as_in_training() {
    let masked = DatasetArgs {
        num_tokens: 258,
        pad_token_id: 256,
        masking: Some(Masking {
            mask_token_id: 257,
            masking_proba: 0.3,
        }),
        ..DatasetArgs::new("", Split::Train, 12)
    };
    let bytes: Vec<u8> = (0..100).collect();
    let inner = crate::data::Sequential::new(
        Arc::new(bytes),
        0..100,
        &masked,
        crate::data::SequenceOptions::default(),
        "numbers",
    )
    .unwrap();
    let masked: Arc<dyn Dataset> = Arc::new(crate::data::Masked::new(Arc::new(inner), &masked).unwrap());
    for (model, dataset) in [
        (
            Model::Decoder(std::sync::Arc::new(decoder())),
            Arc::new(Weighted) as Arc<dyn Dataset>,
        ),
        (encoder(), masked),
    ] {
        let expected = as_in_training(&model, dataset.clone());
        assert!(expected.bytes > 10);
        for batch_size in [1, 3] {
            let score = total(SplitScores::new(&model, dataset.clone(), batch_size, None).unwrap()).unwrap();
            assert_eq!(score.bytes, expected.bytes);
            assert!(close(score.nats, expected.nats), "{score:?} {expected:?}");
        }
    }
}

#[test]
fn errors_name_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let model = decoder();
    let missing = Windows::open(&model, &folder.path().join("missing"), EvalOptions::new(12));
    assert!(missing.err().unwrap().to_string().contains("missing: "));
    let message = Windows::open(&model, folder.path(), EvalOptions::new(12))
        .err()
        .unwrap();
    assert!(message.to_string().contains("is a folder"));
}
