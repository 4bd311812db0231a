//! Comparison of the answers with their definition: the best of full passes over sample and answer.

use std::path::Path;
use std::sync::Arc;

use candle_core::Device;
use serde_json::{Value, json};

use super::*;
use crate::clevr::{ANSWERS, Clevr, QuestionType, Questions};
use mblm::config::ModelConfig;
use mblm::data::{Dataset, DatasetArgs, Split};
use mblm::model::Mblm;

fn model() -> Arc<Mblm> {
    let config: ModelConfig = serde_json::from_value(json!({
        "num_tokens": 260, "pad_token_id": 256, "train_checkpoint_chunks": null,
        "seq_lens": [64, 8], "hidden_dims": [16, 16], "num_layers": [1, 1],
        "block": {"attn_head_dims": 8, "attn_num_heads": 2, "attn_use_rot_embs": true, "pos_emb_type": "fixed"}
    }))
    .unwrap();
    Mblm::seeded(&config, 3, &Device::Cpu).unwrap().into()
}

/// Returns the fixture's three questions.
fn data(options: Value) -> Clevr {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/clevr");
    let mut all = json!({
        "target_mode": "a", "resize_to_w": 12, "resize_to_h": 8, "eom_token_id": 257, "som_text_token_id": 258,
        "som_image_token_id": 259,
    });
    all.as_object_mut()
        .unwrap()
        .extend(options.as_object().cloned().unwrap());
    let args = DatasetArgs {
        pad_token_id: 256,
        num_tokens: 260,
        options: all.as_object().cloned().unwrap(),
        ..DatasetArgs::new(folder, Split::Validation, 512)
    };
    Clevr::open(&args).unwrap().unwrap()
}

fn ask(model: &Arc<Mblm>, data: &Clevr, batch_size: usize) -> Vec<Answered> {
    let batches = Asking::new(model, data, batch_size, None).unwrap();
    let mut answered: Vec<Answered> = batches.flat_map(Result::unwrap).collect();
    answered.sort_by_key(|answered| answered.index);
    answered
}

/// Returns the logits after `ids`, from a pass over all of them.
fn logits(model: &Mblm, ids: &[u32]) -> Vec<f32> {
    let len = ids.len();
    model
        .logits(ids)
        .unwrap()
        .get(0)
        .unwrap()
        .get(len - 1)
        .unwrap()
        .to_vec1()
        .unwrap()
}

fn largest(ids: impl Iterator<Item = u32>, logits: &[f32]) -> u32 {
    ids.max_by(|a, b| logits[*a as usize].total_cmp(&logits[*b as usize]))
        .unwrap()
}

#[test]
fn a_categorical_answer_is_the_best_class_after_the_prompt() {
    let (model, data) = (model(), data(json!({"answer_categorical": true})));
    for batch_size in [1, 4] {
        let answered = ask(&model, &data, batch_size);
        assert_eq!(answered.len(), 3);
        for answered in answered {
            // a sample, cut before its answer
            let sample = data.sample(answered.index, 0).unwrap();
            let count = sample.ids.iter().take_while(|id| **id != 256).count();
            let prompt = &sample.ids[..count - 2];
            assert_eq!(data.prompt(answered.index).unwrap(), prompt);
            let next = logits(&model, prompt);
            let class = largest((b'0'..=b'9').chain(b'A'..=b'R').map(u32::from), &next);
            assert_eq!(answered.constrained, crate::clevr::answer_of(class as u8).unwrap());
            assert_eq!(answered.constrained_right, answered.constrained == answered.answer);
        }
    }
}

#[test]
fn words_are_written_id_by_id() {
    let (model, data) = (model(), data(json!({})));
    for answered in ask(&model, &data, 2) {
        let prompt = data.prompt(answered.index).unwrap();
        let written = |answer: &str| -> Vec<u32> { answer.bytes().map(u32::from).chain([257]).collect() };
        let (mut ids, mut left) = (prompt.clone(), ANSWERS.map(written).to_vec());
        for place in 0.. {
            let next = largest(left.iter().map(|answer| answer[place]), &logits(&model, &ids));
            left.retain(|answer| answer[place] == next);
            ids.push(next);
            if next == 257 {
                break;
            }
        }
        assert_eq!(ids[prompt.len()..], written(&answered.constrained));

        let mut ids = prompt.clone();
        while ids.len() < prompt.len() + 9 && !matches!(ids.last(), Some(256 | 257)) || ids.len() == prompt.len() {
            ids.push(largest(0..260, &logits(&model, &ids)));
        }
        let bytes: Vec<u8> = ids[prompt.len()..]
            .iter()
            .filter_map(|id| u8::try_from(*id).ok())
            .collect();
        assert_eq!(answered.free, String::from_utf8_lossy(&bytes));
    }
}

#[test]
fn a_sample_that_fills_the_context_is_answered() {
    let model = model();
    // the longest: twice 45 ids of question, 414 + 2 of image, 1 before the answer, of 512
    let data = data(json!({"resize_to_w": 6, "resize_to_h": 23}));
    let longest = (0..3).map(|index| data.prompt(index).unwrap().len()).max().unwrap();
    assert!(longest == 507, "{longest}");
    assert_eq!(ask(&model, &data, 3).len(), 3);
}

#[test]
fn shares_are_counted_by_type() {
    let mut tally = Tally::default();
    for (kind, right) in [
        (Some(QuestionType::Count), true),
        (Some(QuestionType::Count), false),
        (Some(QuestionType::Exist), true),
        (None, false),
    ] {
        tally.count(kind, right);
    }
    assert_eq!(tally.overall, Share { right: 2, of: 4 });
    let shares: Vec<_> = tally.by_type().filter(|(_, share)| share.of > 0).collect();
    let expected = [
        (QuestionType::Exist, Share { right: 1, of: 1 }),
        (QuestionType::Count, Share { right: 1, of: 2 }),
    ];
    assert_eq!(shares, expected);
    assert_eq!((tally.overall.accuracy(), Share::default().accuracy()), (0.5, 0.0));
}

#[test]
fn the_prior_is_the_most_frequent_answer_of_the_template() {
    let entry = |family: u32, function: &str, answer: &str| {
        json!({"question": "?", "answer": answer, "image_filename": "a.png", "question_family_index": family,
               "program": [{"function": function}]})
    };
    let list = vec![
        entry(1, "count", "3"),
        entry(1, "count", "2"),
        entry(1, "count", "2"),
        entry(2, "count", "3"),
        entry(2, "count", "3"),
        entry(3, "exist", "yes"),
        entry(3, "exist", "no"),
    ];
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), json!({"questions": list}).to_string()).unwrap();
    let prior = Prior::new(&Questions::read(file.path(), None).unwrap().list);
    let (count, exist) = (Some(QuestionType::Count), Some(QuestionType::Exist));
    assert_eq!(prior.answer(Some(1), count), Some("2"));
    assert_eq!(prior.answer(Some(2), count), Some("3"));
    assert_eq!(prior.answer(Some(9), count), Some("3"), "of the type");
    assert_eq!(prior.answer(Some(3), exist), Some("no"), "as frequent as yes");
    assert_eq!(prior.answer(None, None), None);
}
