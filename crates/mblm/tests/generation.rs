//! Decoding with state beyond single streams: losses by pieces, streams out of step, forks, states
//! in files, blocks without steps.
//!
//! Longer than 450 lines: the tests share the small models of every block.

mod support;

use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use mblm::Result;
use mblm::blocks::BlockRegistry;
use mblm::bytes::Format;
use mblm::config::{ModelConfig, Precision};
use mblm::generate::{
    Completion, End, Generator, GeneratorState, SamplingParams, ShardThreads, Start, StopReason, StopRules, complete,
};
use mblm::model::{Init, Mblm, Model, Parameter, Recomputed, Seeded, SequenceBlock};
use serde_json::{Value, json};

fn transformer(position: Option<&str>) -> Value {
    json!({"block_type": "transformer", "attn_head_dims": 4, "attn_num_heads": 2, "attn_use_rot_embs": true, "pos_emb_type": position})
}

fn mamba(kind: &str) -> Value {
    json!({"block_type": kind, "d_state": 4, "d_conv": 3, "expand": 2, "headdim": 4, "pos_emb_type": null})
}

fn build(blocks: &Value, seq_lens: &[usize], registry: &BlockRegistry, seed: u64) -> Arc<Mblm> {
    let stages = seq_lens.len();
    let config: ModelConfig = serde_json::from_value(json!({
        "num_tokens": 257, "pad_token_id": 256, "hidden_dims": vec![8; stages], "num_layers": vec![2; stages],
        "seq_lens": seq_lens, "train_checkpoint_chunks": null, "block": blocks,
    }))
    .expect("a valid configuration");
    Mblm::new(&config, registry, &Seeded(seed), DType::F32, &Device::Cpu)
        .expect("the model builds")
        .into()
}

/// One to four stages, every kind of block, all without an end to their positions.
fn models() -> Vec<(&'static str, Arc<Mblm>)> {
    let registry = BlockRegistry::default();
    let model = |blocks: Value, lens: &[usize]| build(&blocks, lens, &registry, 1);
    vec![
        ("T", model(json!([transformer(None)]), &[64])),
        ("M2", model(json!([mamba("mamba2")]), &[64])),
        (
            "T/T",
            model(json!([transformer(Some("rope")), transformer(Some("fixed"))]), &[16, 4]),
        ),
        (
            "M2/T",
            model(json!([mamba("mamba2"), transformer(Some("fixed"))]), &[16, 4]),
        ),
        ("M1/M2", model(json!([mamba("mamba1"), mamba("mamba2")]), &[16, 3])),
        (
            "M2/T/T",
            model(
                json!([mamba("mamba2"), transformer(None), transformer(Some("fixed"))]),
                &[8, 3, 4],
            ),
        ),
        (
            "T/M1/T/M2",
            model(
                json!([transformer(None), mamba("mamba1"), transformer(None), mamba("mamba2")]),
                &[6, 2, 3, 2],
            ),
        ),
    ]
}

fn ids(len: usize, seed: u64) -> Vec<u32> {
    support::ids(1, len, 256, seed).ids
}

fn rows(logits: &Tensor) -> Vec<Vec<f32>> {
    logits.to_vec2().expect("logits")
}

#[track_caller]
fn assert_close(found: &[f32], expected: &[f32], what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}");
    for (index, (found, expected)) in found.iter().zip(expected).enumerate() {
        assert!(
            (found - expected).abs() <= 1e-4,
            "{what}, {index}: {found} for {expected}"
        );
    }
}

#[test]
fn losses_by_pieces_are_those_of_the_whole() {
    for (name, model) in models() {
        let ids = ids(150, 3);
        let expected: Vec<f32> = model
            .losses(&ids)
            .and_then(|t| Ok(t.flatten_all()?.to_vec1()?))
            .expect("losses");
        let generator = Generator::new(model.clone()).expect("a generator");
        for pieces in [vec![150], vec![1, 149], vec![7, 50, 93], vec![24, 24, 102], vec![5; 30]] {
            let mut state = generator.begin(1);
            let mut logits = generator.first_logits(1).expect("logits");
            let (mut found, mut rest) = (Vec::new(), &ids[..]);
            for piece in &pieces {
                let (piece, after) = rest.split_at(*piece);
                found.extend(generator.losses(&mut state, &mut logits, piece).expect("losses"));
                rest = after;
            }
            assert_close(&found, &expected, &format!("{name} in {pieces:?}"));
            // and the state goes on as that of a prefill does
            let mut other = generator.begin(1);
            let prefilled = generator.prefill(&mut other, &[&ids]).expect("prefill");
            assert_close(&rows(&logits)[0], &rows(&prefilled)[0], name);
            let (next, expected) = (generator.step(&mut state, &[65]), generator.step(&mut other, &[65]));
            assert_close(
                &rows(&next.expect("a step"))[0],
                &rows(&expected.expect("a step"))[0],
                name,
            );
        }
    }
}

#[test]
fn streams_out_of_step_give_what_each_gives_alone() {
    for (name, model) in models() {
        let generator = Generator::new(model.clone()).expect("a generator");
        let prompts: Vec<Vec<u32>> = [0, 1, 4, 5, 5, 23, 24]
            .iter()
            .map(|len| ids(*len, 40 + *len as u64))
            .collect();
        let prompts: Vec<&[u32]> = prompts.iter().map(Vec::as_slice).collect();
        let next: Vec<Vec<u32>> = (0..prompts.len()).map(|stream| ids(40, 70 + stream as u64)).collect();
        let (mut states, mut logits) = generator.prefill_each(&prompts).expect("prefill");
        let mut alone = Vec::new();
        for (prompt, next) in prompts.iter().zip(&next) {
            let mut state = generator.begin(1);
            let mut of_stream = vec![match prompt.is_empty() {
                true => generator.first_logits(1).expect("logits"),
                false => generator.prefill(&mut state, &[prompt]).expect("prefill"),
            }];
            for id in next {
                of_stream.push(generator.step(&mut state, &[*id]).expect("a step"));
            }
            alone.push(of_stream);
        }
        for step in 0..=next[0].len() {
            for (stream, row) in rows(&logits).iter().enumerate() {
                let expected = &rows(&alone[stream][step])[0];
                assert_close(row, expected, &format!("{name}, stream {stream}, step {step}"));
            }
            if step < next[0].len() {
                let ids: Vec<u32> = next.iter().map(|next| next[step]).collect();
                logits = generator.step_each(&mut states, &ids).expect("a step");
            }
        }
    }
}

#[test]
fn a_fork_goes_on_like_streams_that_read_the_prompt_themselves() {
    for (name, model) in models() {
        let generator = Generator::new(model.clone()).expect("a generator");
        for len in [3, 12, 29] {
            let prompt = ids(len, 5);
            let mut one = generator.begin(1);
            let logits = generator.prefill(&mut one, &[&prompt]).expect("prefill");
            let mut forked = one.fork(3).expect("one stream");
            let mut together = generator.begin(3);
            let expected = generator
                .prefill(&mut together, &[&prompt, &prompt, &prompt])
                .expect("prefill");
            assert_close(&rows(&logits)[0], &rows(&expected)[2], name);
            for step in 0..20u32 {
                let ids = [step, 100 + step, 255 - step];
                let found = rows(&generator.step(&mut forked, &ids).expect("a step"));
                let expected = rows(&generator.step(&mut together, &ids).expect("a step"));
                for (found, expected) in found.iter().zip(&expected) {
                    assert_close(found, expected, name);
                }
            }
            // as many shards as threads or more, and fewer
            for threads in [2, 5] {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
                pool.expect("threads").install(|| {
                    let mut shards = one.fork_shards(13).expect("one stream");
                    assert_eq!(shards.len(), threads.min(3));
                    assert_eq!(shards.iter().map(GeneratorState::streams).sum::<usize>(), 13);
                    let own_threads = ShardThreads::new(shards.len()).expect("threads");
                    let mut forked = one.fork(13).expect("one stream");
                    for step in 0..9u32 {
                        let found = own_threads.side_by_side(&mut shards, |shard| {
                            let logits = generator.step(shard, &vec![step; shard.streams()]);
                            rows(&logits.expect("a step"))
                        });
                        let expected = rows(&generator.step(&mut forked, &[step; 13]).expect("a step"));
                        assert_eq!(found.concat(), expected, "{name}");
                    }
                });
            }
            // the state that was forked is as it was
            let mut other = generator.begin(1);
            generator.prefill(&mut other, &[&prompt]).expect("prefill");
            let (found, expected) = (generator.step(&mut one, &[9]), generator.step(&mut other, &[9]));
            assert_close(
                &rows(&found.expect("a step"))[0],
                &rows(&expected.expect("a step"))[0],
                name,
            );
        }
        assert!(generator.begin(2).fork(3).is_err());
        assert!(generator.begin(2).fork_shards(8).is_err());
    }
}

#[test]
fn a_state_goes_to_a_file_and_back() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("state.safetensors");
    for (name, model) in models() {
        let generator = Generator::new(model.clone()).expect("a generator");
        for len in [1, 11, 12, 31] {
            let (one, two) = (ids(len, 8), ids(len, 9));
            let mut state = generator.begin(2);
            let logits = generator.prefill(&mut state, &[&one, &two]).expect("prefill");
            generator.save_state(&state, &logits, &path).expect("a file");
            let (mut loaded, found) = generator.load_state(&path).expect("a state");
            assert_eq!(rows(&found), rows(&logits), "{name}");
            assert_eq!((loaded.position(), loaded.streams()), (len, 2));
            for step in 0..30 {
                let found = generator.step(&mut loaded, &[step, 2 * step]).expect("a step");
                let expected = generator.step(&mut state, &[step, 2 * step]).expect("a step");
                assert_eq!(rows(&found), rows(&expected), "{name} after {len}");
            }
        }
    }
}

#[test]
fn a_file_that_is_no_state_of_this_model_is_an_error() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("state.safetensors");
    let blocks = json!([mamba("mamba2"), transformer(Some("fixed"))]);
    let [one, other] = [1, 2].map(|seed| build(&blocks, &[16, 4], &BlockRegistry::default(), seed));
    let (one, other) = (
        Generator::new(one).expect("one"),
        Generator::new(other).expect("another"),
    );
    let mut state = one.begin(1);
    let logits = one.prefill(&mut state, &[&ids(10, 1)]).expect("prefill");
    one.save_state(&state, &logits, &path).expect("a file");
    let message = |generator: &Generator| generator.load_state(&path).expect_err("an error").to_string();
    assert!(
        message(&other).contains("expected a state of this model, found the state of another"),
        "{}",
        message(&other)
    );
    let file = std::fs::read(&path).expect("the file");
    for cut in [0, 9, 200, file.len() - 1] {
        std::fs::write(&path, &file[..cut]).expect("a file");
        assert!(message(&one).contains("state.safetensors"), "{}", message(&one));
    }
    let header = usize::from_le_bytes(file[..8].try_into().expect("eight bytes"));
    let mut changed = file.clone();
    let place = file[..8 + header]
        .windows(13)
        .position(|window| window == b"position\\\":10");
    changed[place.expect("the position") + 12] = b'1';
    std::fs::write(&path, &changed).expect("a file");
    assert!(message(&one).contains("damaged"), "{}", message(&one));
    std::fs::write(&path, b"{}").expect("a file");
    assert!(!message(&one).is_empty());
    let weights = folder.path().join("weights.safetensors");
    mblm::checkpoint::save(
        folder.path(),
        "decoder",
        &json!({}),
        &one.model().parameters().named_tensors(),
    )
    .expect("a folder");
    std::fs::rename(folder.path().join("model.safetensors"), &weights).expect("a file");
    let message = one.load_state(&weights).expect_err("no state").to_string();
    assert!(
        message.contains("expected the state of a generation, found other tensors"),
        "{message}"
    );
}

/// y_i = the mean of w ⊙ x_0 … w ⊙ x_i: a block that its author wrote for whole sequences.
struct RunningMean {
    weight: Parameter,
}

impl SequenceBlock for RunningMean {
    fn parameters(&self) -> Vec<&Parameter> {
        vec![&self.weight]
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let counts: Vec<f64> = (1..=x.dim(1)?).map(|count| 1.0 / count as f64).collect();
        let counts = Tensor::from_vec(counts, (1, x.dim(1)?, 1), x.device())?.to_dtype(x.dtype())?;
        Ok(x.cumsum(1)?
            .broadcast_mul(&counts)?
            .broadcast_mul(self.weight.tracked())?)
    }
}

#[test]
fn a_block_that_knows_whole_sequences_only_trains_and_decodes() {
    let mut registry = BlockRegistry::default();
    registry.register_fn("mean", |_, args| {
        let weight = args.builder.parameter("weight", &[args.dim], Init::Normal(1.0))?;
        Ok(Box::new(Recomputed(RunningMean { weight })))
    });
    let mean = json!({"block_type": "mean", "pos_emb_type": "fixed"});
    for blocks in [
        json!([mamba("mamba2"), mean]),
        json!([mean, transformer(None)]),
        json!([mean, mean]),
    ] {
        let config: ModelConfig = serde_json::from_value(json!({
            "num_tokens": 257, "pad_token_id": 256, "hidden_dims": [8, 8], "num_layers": [1, 1], "seq_lens": [9, 4],
            "train_checkpoint_chunks": null, "block": blocks,
        }))
        .expect("a valid configuration");
        let model = Mblm::new(&config, &registry, &Seeded(3), DType::F64, &Device::Cpu).expect("the model builds");
        let model = Arc::new(model);
        support::check_splits(&model, 36, &[1, 3, 4, 5, 35]);
        support::check_gradients(&model, 3);
    }
}

/// Rounded weights, on the CPU: other logits than exact ones, a little, and still the same by
/// prefill and steps as for the whole.
#[test]
fn rounded_weights_are_those_of_the_whole_too() {
    for (name, exact) in models() {
        let sequence = ids(50, 4);
        let whole = |model: &Mblm| rows(&model.logits(&sequence).and_then(|t| Ok(t.squeeze(0)?)).expect("logits"));
        let before = whole(&exact);
        let mut model = Model::Decoder(exact);
        model.use_in(Precision::Float32).expect("nothing to do");
        let decoder = |model: &Model| whole(model.decoder("the test").expect("a decoder"));
        assert_eq!(decoder(&model), before, "{name}: float32 changes nothing");
        model.use_in(Precision::Bf16).expect("rounded weights");
        let decoder = model.decoder("the test").expect("a decoder");
        let expected = whole(decoder);
        let largest = (before.iter().flatten().zip(expected.iter().flatten()))
            .map(|(before, after)| (before - after).abs())
            .fold(0.0, f32::max);
        assert!(largest > 1e-5 && largest < 5e-2, "{name}: {largest}");

        let generator = Generator::new(decoder.clone()).expect("a generator");
        let (prompt, rest) = sequence.split_at(21);
        let mut state = generator.begin(1);
        let mut logits = generator.prefill(&mut state, &[prompt]).expect("prefill");
        for (position, id) in (prompt.len() - 1..).zip(rest) {
            assert_close(&rows(&logits)[0], &expected[position], name);
            logits = generator.step(&mut state, &[*id]).expect("a step");
        }
        assert_close(&rows(&logits)[0], &expected[sequence.len() - 1], name);
    }
}

/// In bfloat16 on a GPU, where a step of a Transformer stage is one kernel: prefill, steps and
/// forks give what the whole does.
#[cfg(feature = "cuda")]
#[test]
fn steps_on_cuda_are_those_of_the_whole() {
    use mblm_ops::relative_error;

    let block = |position: Option<&str>| {
        json!({"block_type": "transformer", "attn_head_dims": 16, "attn_num_heads": 4, "attn_use_rot_embs": true,
            "pos_emb_type": position})
    };
    let config: ModelConfig = serde_json::from_value(json!({
        "num_tokens": 257, "pad_token_id": 256, "hidden_dims": [64, 64, 64], "num_layers": [2, 3, 3], "seq_lens": [8, 4, 6],
        "train_checkpoint_chunks": null, "block": [mamba("mamba2"), block(None), block(Some("fixed"))],
    }))
    .expect("a valid configuration");
    let registry = BlockRegistry::default();
    let on = |device: &Device| Mblm::new(&config, &registry, &Seeded(1), DType::F32, device).expect("the model builds");
    let exact = on(&Device::Cpu);
    let device = mblm_ops::device::open("cuda").expect("a CUDA device");
    let mut model = Model::Decoder(Arc::new(on(&device)));
    model.set_precision(Precision::Bf16).expect("it is not shared");
    let generator = Generator::new(model.decoder("the test").expect("a decoder").clone()).expect("a generator");

    let (prompt, len) = (29, 110);
    let sequences: Vec<Vec<u32>> = (0..3)
        .map(|seed| [ids(prompt, 1), ids(len - prompt, 20 + seed)].concat())
        .collect();
    let whole: Vec<Vec<Vec<f32>>> = (sequences.iter())
        .map(|ids| {
            rows(&exact.logits(ids).and_then(|t| Ok(t.squeeze(0)?)).expect("logits"))
                .into_iter()
                .collect()
        })
        .collect();
    let check = |logits: &Tensor, stream: usize, sequence: usize, position: usize| {
        let expected = Tensor::new(&whole[sequence][position][..], &Device::Cpu).expect("a row");
        let found = logits
            .get(stream)
            .and_then(|row| row.to_dtype(DType::F32))
            .expect("a row");
        let error = relative_error(&found, &expected, 0.0).expect("equal shapes");
        assert!(
            error <= 5e-2,
            "sequence {sequence}, position {position}: off by {error:.2e}"
        );
    };
    let mut state = generator.begin(1);
    let logits = generator
        .prefill(&mut state, &[&sequences[0][..prompt]])
        .expect("prefill");
    check(&logits, 0, 0, prompt - 1);
    let mut together = state.fork(3).expect("a fork");
    let mut alone = [state.clone(), state.clone(), state];
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("state");
    for position in prompt..len {
        let next: Vec<u32> = sequences.iter().map(|ids| ids[position]).collect();
        let logits = generator.step(&mut together, &next).expect("a step");
        if position % 40 == 11 {
            generator.save_state(&together, &logits, &file).expect("a saved state");
            (together, _) = generator.load_state(&file).expect("the state that was saved");
        }
        for (sequence, state) in alone.iter_mut().enumerate() {
            check(&logits, sequence, sequence, position);
            let logits = generator.step(state, &next[sequence..=sequence]).expect("a step");
            check(&logits, 0, sequence, position);
        }
    }
}

fn completed(generator: &Generator, params: &SamplingParams, stop: &StopRules) -> Vec<(Vec<u8>, Option<End>)> {
    let mut samples = vec![(Vec::new(), None); params.samples];
    for piece in complete(generator, b"Once", params, stop).expect("samples") {
        let piece = piece.expect("a piece");
        samples[piece.sample].0.extend(piece.bytes);
        samples[piece.sample].1 = piece.end;
    }
    samples
}

#[test]
fn completions_do_not_depend_on_their_company() {
    let (_, model) = models().remove(3);
    let generator = Generator::new(model).expect("a generator");
    let stop = StopRules::default();
    let mut params = SamplingParams::new(20);
    (params.samples, params.seed, params.format) = (5, 7, Format::Raw);
    let together = completed(&generator, &params, &stop);
    params.samples = 1;
    for (number, sample) in together.iter().enumerate() {
        params.first_sample = number as u64;
        assert_eq!(
            completed(&generator, &params, &stop),
            std::slice::from_ref(sample),
            "sample {number}"
        );
        assert_eq!((sample.0.len(), sample.1), (20, Some(End::Length)));
    }
}

#[test]
fn a_completion_goes_on_from_where_another_ended() {
    let (_, model) = models().remove(3);
    let generator = Generator::new(model).expect("a generator");
    let mut params = SamplingParams::new(24);
    (params.sampling.temperature, params.format) = (0.0, Format::Raw);
    let [(whole, _)] = &completed(&generator, &params, &StopRules::default())[..] else {
        panic!("one sample")
    };
    // held back while it could be the stop text, which is longer than what is left
    let stop = StopRules {
        strings: vec![[&whole[6..10], b"no such text"].concat()],
        ..StopRules::default()
    };
    params.max_bytes = 10;
    let mut first = complete(&generator, b"Once", &params, &stop).expect("a sample");
    let begun: Vec<u8> = first.by_ref().flat_map(|piece| piece.expect("a piece").bytes).collect();
    assert_eq!(begun, whole[..10]);
    let start = Start {
        cursor: Some(first.into_cursor().expect("a cursor")),
        ..Start::default()
    };
    params.max_bytes = 14;
    let rest = Completion::new(&generator, start, &params, &StopRules::default()).expect("a sample");
    let rest: Vec<u8> = rest.flat_map(|piece| piece.expect("a piece").bytes).collect();
    assert_eq!(rest, whole[10..]);
}

#[test]
fn completions_end_by_a_stop_and_by_an_interrupt() {
    let (_, model) = models().remove(3);
    let generator = Generator::new(model).expect("a generator");
    let mut params = SamplingParams::new(24);
    (params.sampling.temperature, params.format, params.echo) = (0.0, Format::Raw, true);
    let [(whole, _)] = &completed(&generator, &params, &StopRules::default())[..] else {
        panic!("one sample")
    };
    assert_eq!((&whole[..4], whole.len()), (&b"Once"[..], 28));
    let mut stop = StopRules {
        strings: vec![whole[4..7].to_vec()],
        ..StopRules::default()
    };
    let end = Some(End::Stop(StopReason::String(0)));
    assert_eq!(completed(&generator, &params, &stop), [(b"Once".to_vec(), end)]);
    stop.keep = true;
    assert_eq!(completed(&generator, &params, &stop), [(whole[..7].to_vec(), end)]);
    for samples in [1, 2] {
        (params.samples, params.interrupt) = (samples, Some(Arc::new(true.into())));
        let expected = vec![(b"Once".to_vec(), Some(End::Interrupted)); samples];
        assert_eq!(completed(&generator, &params, &StopRules::default()), expected);
    }
}
