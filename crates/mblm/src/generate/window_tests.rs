//! Windows against their definition: a crop is the prompt's end, a slide rereads half a context.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use candle_core::Device;

use super::*;
use crate::Result;
use crate::blocks::{PositionEmbedding, Transformer};
use crate::bytes::ids_from_bytes;
use crate::config::ModelConfig;
use crate::model::Mblm;

/// A context of 8 patches of 3 bytes with fixed positions: 24 bytes at most.
fn generator() -> Generator {
    let config = ModelConfig::new([8, 3])
        .dims([8, 8])
        .layers([2, 1])
        .block(0, Transformer::new(2, 4).pos_emb_type(PositionEmbedding::Fixed))
        .block(1, Transformer::new(2, 4));
    assert_eq!(config.longest_input(), Some(24));
    Generator::new(Mblm::seeded(&config, 5, &Device::Cpu).unwrap()).unwrap()
}

fn params(window: Window, max_bytes: usize) -> SamplingParams {
    let mut params = SamplingParams::new(max_bytes);
    (params.window, params.seed) = (window, 9);
    params
}

fn greedy(window: Window, max_bytes: usize) -> SamplingParams {
    let mut params = params(window, max_bytes);
    params.sampling.temperature = 0.0;
    params
}

fn ids(completion: Completion<'_>) -> Result<Vec<u32>> {
    let pieces: Result<Vec<Piece>> = completion.collect();
    Ok(pieces?.into_iter().flat_map(|piece| piece.ids).collect())
}

fn completed(generator: &Generator, prompt: &[u8], params: &SamplingParams, stop: &StopRules) -> Result<Vec<u32>> {
    ids(complete(generator, prompt, params, stop)?)
}

const PROMPT: &[u8] = b"the quick brown fox jumps over the lazy dog";

#[test]
fn a_text_that_fits_is_the_same_in_every_window() {
    let (generator, none) = (generator(), StopRules::default());
    let of = |window| completed(&generator, b"the quick", &params(window, 15), &none).unwrap();
    assert_eq!(of(Window::Whole).len(), 15);
    assert_eq!(of(Window::Whole), of(Window::Crop));
    assert_eq!(of(Window::Whole), of(Window::Slide));
}

#[test]
fn a_crop_is_the_end_of_the_prompt() {
    let (generator, none) = (generator(), StopRules::default());
    let cropped = completed(&generator, PROMPT, &params(Window::Crop, 5), &none).unwrap();
    let end = completed(
        &generator,
        &PROMPT[PROMPT.len() - 19..],
        &params(Window::Whole, 5),
        &none,
    )
    .unwrap();
    assert_eq!(cropped, end);
    let whole = completed(&generator, PROMPT, &params(Window::Whole, 5), &none);
    assert!(whole.is_err(), "{whole:?}");
    let message = complete(&generator, PROMPT, &params(Window::Crop, 24), &none)
        .err()
        .unwrap()
        .to_string();
    assert!(
        message.contains("24 are to be generated") && message.contains("sliding window"),
        "{message}"
    );
}

/// The greedy output of a sliding window, by definition.
fn slid(generator: &Generator, prompt: &[u8], count: usize) -> Vec<u32> {
    let (limit, half) = (24, 12);
    let mut text = ids_from_bytes(prompt);
    let mut cursor = Cursor::begin(generator).unwrap();
    match text.len() > limit {
        true => cursor.read(generator, &text[text.len() - half..]).unwrap(),
        false => cursor.read(generator, &text).unwrap(),
    }
    let mut generated = Vec::new();
    for step in 0..count {
        let logits = cursor.next().unwrap();
        let id = (0..256)
            .max_by(|a, b| logits[*a].total_cmp(&logits[*b]).then(b.cmp(a)))
            .unwrap() as u32;
        generated.push(id);
        if step + 1 < count {
            if cursor.position() + 1 > limit {
                cursor = Cursor::begin(generator).unwrap();
                cursor.read(generator, &text[text.len() - half..]).unwrap();
            }
            cursor.step(generator, id).unwrap();
        }
        text.push(id);
    }
    generated
}

#[test]
fn a_window_slides_for_ever() {
    let (generator, none) = (generator(), StopRules::default());
    for prompt in [&b""[..], b"the quick", PROMPT, &PROMPT[..24], &PROMPT[..23]] {
        let found = completed(&generator, prompt, &greedy(Window::Slide, 80), &none).unwrap();
        assert_eq!(found, slid(&generator, prompt, 80), "{}", prompt.len());
    }
}

#[test]
fn text_that_is_held_back_survives_a_slide() {
    let generator = generator();
    let free = completed(&generator, b"the", &greedy(Window::Slide, 60), &StopRules::default()).unwrap();
    for place in [20, 21, 22, 23, 30, 33, 45] {
        // the next four bytes with a wrong end: held back, then released
        let mut stop: Vec<u8> = free[place..place + 4].iter().map(|id| *id as u8).collect();
        stop[3] = stop[3].wrapping_add(1);
        let rules = StopRules {
            strings: vec![stop],
            ..StopRules::default()
        };
        let found = completed(&generator, b"the", &greedy(Window::Slide, 60), &rules).unwrap();
        assert_eq!(found[..], free[..found.len()], "{place}");
        let mut some = complete(&generator, b"the", &greedy(Window::Slide, place + 2), &rules).unwrap();
        some.by_ref().for_each(|piece| drop(piece.unwrap()));
        let cursor = some.into_cursor().unwrap();
        let next = cursor.next().unwrap();
        let likeliest = (0..256)
            .max_by(|a, b| next[*a].total_cmp(&next[*b]).then(b.cmp(a)))
            .unwrap();
        assert!(cursor.position() <= 24);
        assert_eq!(likeliest as u32, free[place + 2], "{place}");
    }
}

#[test]
fn several_samples_do_not_slide_together() {
    let generator = generator();
    let mut several = params(Window::Slide, 5);
    several.samples = 2;
    let message = complete(&generator, b"a", &several, &StopRules::default())
        .err()
        .unwrap()
        .to_string();
    assert!(message.contains("one sample at a time, found 2"), "{message}");
}

#[test]
fn a_prompt_is_watched_and_can_be_interrupted() {
    let generator = generator();
    let told = Arc::new(AtomicUsize::new(0));
    let mut params = params(Window::Whole, 5);
    let (tell, stop) = (told.clone(), Arc::new(AtomicBool::new(false)));
    params.interrupt = Some(stop.clone());
    params.on_prompt = Some(OnPrompt(Arc::new(move |read| tell.store(read, Ordering::Relaxed))));
    let none = StopRules::default();
    let generated = completed(&generator, b"the quick", &params, &none).unwrap();
    assert_eq!((generated.len(), told.load(Ordering::Relaxed)), (5, 8));
    stop.store(true, Ordering::Relaxed);
    let mut stopped = complete(&generator, b"the quick", &params, &none).unwrap();
    let pieces: Vec<Piece> = stopped.by_ref().map(Result::unwrap).collect();
    assert_eq!(pieces.len(), 1);
    assert_eq!((pieces[0].ids.len(), pieces[0].end), (0, Some(End::Interrupted)));
    assert!(!stopped.has_read_prompt());
    let mut cursor = Cursor::begin(&generator).unwrap();
    let watched = cursor.read_watched(&generator, &[1, 2, 3], &mut |_| ControlFlow::Break(()));
    assert!(watched.unwrap().is_break());
    assert_eq!(cursor.position(), 0);
}

#[test]
fn the_work_of_a_prompt_grows_with_its_square_where_the_first_stage_attends() {
    let generator = generator();
    assert!(generator.prefill_is_quadratic());
    let of = |from, to| generator.prefill_flops(from, to);
    assert!((of(0, 30) + of(30, 300) - of(0, 300)).abs() < 1e-6 * of(0, 300));
    assert!(of(0, 600) > 2.0 * of(0, 300));
    let mamba = ModelConfig::new([8, 3])
        .dims([8, 8])
        .layers([1, 1])
        .block(0, crate::blocks::Mamba1::default());
    let mamba = Generator::new(Mblm::seeded(&mamba, 5, &Device::Cpu).unwrap()).unwrap();
    assert!(!mamba.prefill_is_quadratic());
    assert!((mamba.prefill_flops(0, 600) - 2.0 * mamba.prefill_flops(0, 300)).abs() < 1.0);
}
