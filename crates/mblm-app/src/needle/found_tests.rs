//! Tests with readers whose answers are known, and compares the model with whole forward passes.

use candle_core::{Device, Tensor};
use mblm::Result;
use mblm::bytes::ids_from_bytes;
use mblm::config::ModelConfig;
use mblm::generate::Generator;
use mblm::model::Mblm;
use serde_json::json;

use super::*;

/// A reader that finds the values by searching the prompt. Its first `right` bytes of a value are
/// right, the others wrong. The logit of its choice is `margin` above all others.
struct Looker {
    right: usize,
    margin: f32,
    values: Vec<Vec<u8>>,
    place: usize,
}

impl Looker {
    fn new(right: usize, margin: f32) -> Self {
        Self {
            right,
            margin,
            values: Vec::new(),
            place: 0,
        }
    }

    fn logits(&self) -> Result<Tensor> {
        let rows = self.values.iter().map(|value| {
            let said = match value.get(self.place) {
                Some(byte) if self.place < self.right => *byte,
                Some(byte) => byte ^ 1,
                None => 0,
            };
            let mut row = vec![-self.margin; 257];
            row[usize::from(said)] = 0.0;
            row
        });
        let rows: Vec<f32> = rows.flatten().collect();
        Ok(Tensor::from_vec(rows, (self.values.len(), 257), &Device::Cpu)?)
    }
}

impl Reader for Looker {
    fn begin(&mut self, prompts: &[&[u32]]) -> Result<Option<Tensor>> {
        let value = |prompt: &&[u32]| {
            let prompt: String = prompt.iter().map(|id| char::from(*id as u8)).collect();
            let key = prompt.rsplit_once("[key ").unwrap().1.strip_suffix("? ").unwrap();
            let after = prompt.split_once(&format!("[key {key}: ")).unwrap().1;
            after.split_once(']').unwrap().0.as_bytes().to_vec()
        };
        self.values = prompts.iter().map(value).collect();
        self.place = 0;
        self.logits().map(Some)
    }

    fn step(&mut self, ids: &[u32]) -> Result<Tensor> {
        let true_ids: Vec<u32> = self.values.iter().map(|value| u32::from(value[self.place])).collect();
        assert_eq!(ids, true_ids);
        self.place += 1;
        self.logits()
    }
}

fn test(changes: serde_json::Value) -> NeedleTest {
    let options: NeedleOptions = serde_json::from_value(changes).unwrap();
    let text = std::iter::repeat_n(b"Nothing to be found here. ", 40)
        .flatten()
        .copied();
    let haystack = Haystack::from_bytes(text.collect());
    NeedleTest::new(Task::new(options).unwrap(), haystack, 3)
}

#[test]
fn hits_are_hits_and_misses_are_misses() {
    let test = test(json!({"needles": 5, "queries": 2}));
    let read = |right, margin, depth| {
        let found = test.read(&mut Looker::new(right, margin), 400, depth, 0..6);
        found.unwrap().unwrap()
    };
    for depth in [0.0, 0.3, 1.0] {
        let all = read(4, 50.0, depth);
        assert_eq!(
            (all.samples, all.hits, all.right_bytes, all.value.bytes),
            (6, 6, 24, 24)
        );
        assert_eq!((all.accuracy(), all.byte_accuracy()), (1.0, 1.0));
        assert!(all.value.bits_per_byte() < 1e-9);
        let three = read(3, 50.0, depth);
        assert_eq!((three.samples, three.hits, three.right_bytes), (6, 0, 18));
        // the one wrong byte of four has a loss of 50 nats
        assert!((three.value.bits_per_byte() - 50.0 / 4.0 / std::f64::consts::LN_2).abs() < 1e-4);
        assert_eq!(read(0, 50.0, depth).byte_accuracy(), 0.0);
        // the loss of a right byte is ln(1 + 256 e^-m) nats
        let unsure = read(4, 3.0, depth).value.bits_per_byte();
        assert!((unsure - (256.0 * (-3.0f64).exp()).ln_1p() / std::f64::consts::LN_2).abs() < 1e-5);
    }
    let mut sum = read(4, 50.0, 0.5);
    sum.add(read(3, 50.0, 0.5));
    assert_eq!((sum.accuracy(), sum.byte_accuracy()), (0.5, 42.0 / 48.0));
    assert_eq!(Found::default().accuracy(), 0.0);
    let none = test.read(&mut Looker::new(4, 1.0), 400, 0.0, 0..0).unwrap();
    assert_eq!(none, Some(Found::default()));
}

#[test]
fn a_reader_that_is_ended_finds_nothing() {
    let (model, test) = (model(), test(json!({"needles": 2})));
    let generator = Generator::new(model).unwrap();
    let mut told = Vec::new();
    let mut reader = ModelReader::watched(&generator, |read| {
        told.push(read);
        std::ops::ControlFlow::Break(())
    });
    assert_eq!(test.read(&mut reader, 240, 0.4, 2..4).unwrap(), None);
    drop(reader);
    assert_eq!(told.len(), 1);
}

#[test]
fn the_samples_of_a_cell_have_their_needle_at_neighbouring_places() {
    let test = test(json!({}));
    let places = |len, depth, indices: std::ops::Range<u64>| -> Vec<usize> {
        let sample = |index| test.sample(len, depth, index).unwrap();
        indices.map(|index| sample(index).needles[0].start).collect()
    };
    // 1000 bytes of text remain beside needle and query
    assert_eq!(
        places(1032, 0.0, 0..18),
        [(0..16).collect::<Vec<_>>(), vec![0, 1]].concat()
    );
    assert_eq!(places(1032, 0.25, 0..16), (246..262).collect::<Vec<_>>());
    assert_eq!(places(1032, 1.0, 0..16), (984..1000).collect::<Vec<_>>());
    // three bytes of text remain
    assert_eq!(places(35, 1.0, 0..6), [0, 1, 2, 0, 1, 2]);
}

/// A model of three stages, Mamba2 on top, with patches of 6 and 2 bytes.
fn model() -> std::sync::Arc<Mblm> {
    let attention =
        json!({ "attn_head_dims": 4, "attn_num_heads": 2, "attn_use_rot_embs": true, "pos_emb_type": null });
    let config: ModelConfig = serde_json::from_value(json!({
        "num_tokens": 257, "pad_token_id": 256, "train_checkpoint_chunks": null,
        "seq_lens": [4, 3, 2], "hidden_dims": [8, 8, 8], "num_layers": [1, 1, 1],
        "block": [
            { "d_state": 8, "d_conv": 4, "expand": 2, "headdim": 8, "pos_emb_type": null }, attention, attention
        ]
    }))
    .unwrap();
    Mblm::seeded(&config, 3, &Device::Cpu).unwrap().into()
}

#[test]
fn the_model_with_state_answers_as_a_whole_pass_does() {
    let (model, test) = (model(), test(json!({"needles": 2})));
    let generator = Generator::new(model.clone()).unwrap();
    for len in [100, 103, 240] {
        let read = |samples| {
            test.read(&mut ModelReader::new(&generator), len, 0.4, samples)
                .unwrap()
                .unwrap()
        };
        let found = read(2..7);
        let (mut right, mut hits, mut nats) = (0, 0, 0.0);
        for index in 2..7 {
            let hidden = test.sample(len, 0.4, index).unwrap();
            let ids = ids_from_bytes(&hidden.bytes);
            let losses = model.losses(&ids).unwrap();
            let losses = losses.flatten_all().unwrap().to_vec1::<f32>().unwrap();
            // row j predicts id j + 1
            let logits = model
                .logits(&ids)
                .unwrap()
                .squeeze(0)
                .unwrap()
                .to_vec2::<f32>()
                .unwrap();
            let mut of_this = 0;
            for place in hidden.answers[0].clone() {
                nats += f64::from(losses[place]);
                let row = &logits[place - 1];
                let likeliest = (0..row.len()).max_by(|a, b| row[*a].total_cmp(&row[*b])).unwrap();
                of_this += u64::from(likeliest == usize::from(hidden.bytes[place]));
            }
            right += of_this;
            hits += u64::from(of_this == 4);
        }
        assert_eq!((found.samples, found.hits, found.right_bytes), (5, hits, right));
        assert_eq!(found.value.bytes, 20);
        assert!((found.value.nats - nats).abs() < 1e-3, "{} {nats}", found.value.nats);
        // streams do not depend on the other streams
        let mut alone = Found::default();
        for index in 2..7 {
            alone.add(read(index..index + 1));
        }
        assert_eq!(alone.right_bytes, found.right_bytes);
        assert!((alone.value.nats - found.value.nats).abs() < 1e-9);
    }
}

#[test]
fn what_cannot_be_tested_is_an_error() {
    let test = test(json!({}));
    assert!(test.check(400).is_ok());
    let message = |len| test.check(len).unwrap_err().to_string();
    assert!(
        message(32).contains("a sample of 32 bytes is too short"),
        "{}",
        message(32)
    );
    assert!(
        message(2000).contains("memory: has 1040 bytes of text"),
        "{}",
        message(2000)
    );

    struct Mute;
    impl Reader for Mute {
        fn begin(&mut self, _: &[&[u32]]) -> Result<Option<Tensor>> {
            self.step(&[]).map(Some)
        }

        fn step(&mut self, _: &[u32]) -> Result<Tensor> {
            Ok(Tensor::zeros((1, 40), candle_core::DType::F32, &Device::Cpu)?)
        }
    }
    let message = |samples| test.read(&mut Mute, 400, 0.5, samples).unwrap_err().to_string();
    assert!(message(0..1).contains("outside the model's vocabulary of 40"));
    assert!(message(0..2).contains("expected logits of 2 prompts, found 1"));
}
