//! Training runs as a whole: accumulation, parameters without gradient, losses that are not finite,
//! observers. Longer than 450 lines: the tests share an experiment, a data set and a model.

mod support;

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use candle_core::{Device, Tensor};
use mblm::blocks::BlockRegistry;
use mblm::config::{Experiment, Precision};
use mblm::data::{Dataset, Sample};
use mblm::model::{Chunking, Compute, Model, ModelBatch, Parameter, Seeded, StageBlock, State};
use mblm::train::{
    BatchReport, Cosine, Event, FileLengths, Learner, Observer, Recipe, SavedState, States, Trainer, TrainingData,
};
use mblm::{Error, Result};

/// A small experiment; `changes` are overrides as on the command line.
fn experiment(changes: &[&str]) -> Experiment {
    let text = "
io: {name_model: t, output_dir: runs, dataset_dir: none, dataset_id: none, num_models_to_save: 2, validate_amount: 3,
     log_train_loss_amount: 4}
params:
  input_seq_len: 12
  num_tokens: 257
  pad_token_id: 256
  seq_lens: [4, 3]
  hidden_dims: [8, 8]
  num_layers: [1, 1]
  block: {attn_head_dims: 4, attn_num_heads: 2, attn_use_rot_embs: true, pos_emb_type: fixed}
train: {target_elements: 24, target_elements_strategy: batch, batch_size: 2, learning_rate: 1e-2,
        gradient_accumulate_every: 1}
";
    let changes: Vec<String> = changes.iter().map(ToString::to_string).collect();
    Experiment::from_yaml_str(text, "test", &changes).expect("a valid configuration")
}

/// 12 numbered samples of letters; sample `broken` has weights that are not finite.
struct Letters {
    broken: Option<usize>,
}

impl Dataset for Letters {
    fn len(&self, _: usize) -> usize {
        12
    }

    fn sample(&self, index: usize, epoch: usize) -> Result<Sample> {
        let letter = |place: usize| 97 + ((index * 5 + place * (index % 3 + 1) + epoch) % 26) as u32;
        let weight = |_| if self.broken == Some(index) { f32::INFINITY } else { 1.0 };
        Ok(Sample {
            ids: (0..12).map(letter).collect(),
            loss_weights: Some((0..12).map(weight).collect()),
            ..Sample::default()
        })
    }

    fn bytes(&self) -> u64 {
        144
    }

    fn describe(&self) -> String {
        "letters".into()
    }
}

fn data(broken: Option<usize>) -> TrainingData {
    TrainingData {
        train: Arc::new(Letters { broken }),
        other_workers: Vec::new(),
        validation: Some(Arc::new(Letters { broken: None })),
        test: None,
    }
}

fn model(experiment: &Experiment, registry: &BlockRegistry) -> Arc<Model> {
    let model = Model::new(&experiment.params.architecture, registry, &Seeded(1), &Device::Cpu);
    Arc::new(model.expect("the model builds"))
}

/// Adam as published, on a cosine of 100 steps.
fn recipe(lr: f64, precision: Precision) -> Recipe {
    Recipe::new(lr)
        .with_schedule(Cosine::new(lr, 100, 0.0))
        .with_max_grad_norm(0.5)
        .with_precision(precision)
}

fn floats(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().and_then(|t| t.to_vec1()).expect("floats")
}

/// Asked to stop in the middle of a batch, the learner is as it was before, and learns it then as
/// if nothing had happened.
#[test]
fn a_pass_in_chunks_can_be_stopped() {
    let experiment = experiment(&[]);
    let learn = |stopped: bool| {
        let model = model(&experiment, &BlockRegistry::default());
        let recipe = recipe(1e-2, Precision::Float32).with_chunking(Chunking {
            positions: Some(1),
            rows: None,
        });
        let mut learner = Learner::new(model.clone(), recipe).expect("a learner");
        let batch = support::ids(2, 12, 256, 1);
        if stopped {
            let stop = AtomicBool::new(true);
            let told = AtomicUsize::new(0);
            let progress = |_, of| told.store(of, Ordering::Relaxed);
            let watch = mblm::model::Watch {
                stop: Some(&stop),
                progress: Some(&progress),
            };
            let error = learner.learn_watched(&batch, 0, watch).expect_err("stopped");
            assert!(
                matches!(error, mblm::Error::Stopped { done: 0, of } if of > 1 && of == told.load(Ordering::Relaxed)),
                "{error}"
            );
            assert_eq!(learner.counts().batches, 0);
        }
        let told = Mutex::new(Vec::new());
        let progress = |done, of| told.lock().expect("no panic").push((done, of));
        let watch = mblm::model::Watch {
            progress: Some(&progress),
            ..Default::default()
        };
        let first = learner.learn_watched(&batch, 0, watch).expect("a step").loss.mean;
        let second = learner.learn(&batch, 1).expect("a step").loss.mean;
        (first, second, told.into_inner().expect("no panic"))
    };
    let (first, second, told) = learn(true);
    assert_eq!((first, second), (learn(false).0, learn(false).1));
    // in order, and in reverse a chunk is at least three times the work
    let of = told[0].1;
    assert_eq!(told[0].0, 0);
    assert!(
        told.windows(2).all(|pair| pair[0].0 < pair[1].0 && pair[1].1 == of),
        "{told:?}"
    );
    assert!(told.last().is_some_and(|(done, _)| done + 3 <= of), "{told:?}");
}

#[test]
fn bfloat16_products_learn_nearly_the_same_and_only_while_learning() {
    let experiment = experiment(&[]);
    let learn = |precision| {
        let model = model(&experiment, &BlockRegistry::default());
        let recipe = recipe(1e-2, precision);
        let mut learner = Learner::new(model.clone(), recipe).expect("a learner");
        let ids = support::ids(8, 12, 256, 1);
        let losses: Vec<f64> = (0..10)
            .map(|step| learner.learn(&ids, step).expect("a step").loss.mean)
            .collect();
        let decoder = model.decoder("the test").expect("a decoder");
        let logits = |ids: &ModelBatch| {
            decoder
                .logits(ids)
                .expect("logits")
                .to_vec3::<f32>()
                .expect("three dimensions")
        };
        // many rows and few, which are never rounded, agree outside of training
        let (all, alone) = (logits(&ids), logits(&support::sample(&ids, 0)));
        for (found, expected) in all[0].iter().flatten().zip(alone[0].iter().flatten()) {
            assert!((found - expected).abs() < 1e-4, "{found} against {expected}");
        }
        losses
    };
    let (exact, rounded) = (learn(Precision::Float32), learn(Precision::Bf16));
    assert_ne!(exact, rounded);
    assert!(exact[9] < exact[0] - 0.1, "nothing learned: {exact:?}");
    for (exact, rounded) in exact.iter().zip(&rounded) {
        assert!((exact - rounded).abs() < 0.02 * exact, "{rounded} against {exact}");
    }
}

#[test]
fn accumulated_batches_equal_one_large_batch() {
    let experiment = experiment(&[]);
    let (small, large) = (
        model(&experiment, &BlockRegistry::default()),
        model(&experiment, &BlockRegistry::default()),
    );
    let recipe = |grad_accum| recipe(1e-3, Precision::Float32).with_grad_accum(grad_accum);
    let batch = |rows: usize, seed: u64| support::ids(rows, 12, 256, seed);
    let (mut by_four, mut at_once) = (
        Learner::new(small.clone(), recipe(4)).expect("a learner"),
        Learner::new(large.clone(), recipe(1)).expect("a learner"),
    );
    for step in 0..5 {
        let parts: Vec<ModelBatch> = (0..4).map(|part| batch(3, step * 4 + part)).collect();
        let ids = parts.iter().flat_map(|part| part.ids.clone()).collect();
        let whole = ModelBatch::new(ids, 12, 12);
        let mut mean = 0.0;
        let mut norm = None;
        for (part, index) in parts.iter().zip(step * 4..) {
            let learned = by_four.learn(part, index).expect("a batch");
            assert_eq!(learned.norm.is_some(), index % 4 == 3);
            mean += learned.loss.mean / 4.0;
            norm = learned.norm;
        }
        let learned = at_once.learn(&whole, step).expect("a batch");
        assert!((learned.loss.mean - mean).abs() < 1e-5, "{} {mean}", learned.loss.mean);
        let (expected, found) = (learned.norm.expect("a step"), norm.expect("a step"));
        assert!(
            (expected.before - found.before).abs() < 1e-5 * expected.before,
            "{expected:?} {found:?}"
        );
        assert_eq!(
            learned.lr,
            1e-3 * (1.0 + (std::f64::consts::PI * step as f64 / 100.0).cos()) / 2.0
        );
    }
    for (one, other) in small.parameters().iter().zip(large.parameters().iter()) {
        let (one_values, other_values) = (floats(one.value()), floats(other.value()));
        let distance: f32 = one_values.iter().zip(&other_values).map(|(a, b)| (a - b).powi(2)).sum();
        let length: f32 = other_values.iter().map(|value| value.powi(2)).sum();
        assert!(
            distance.sqrt() <= 1e-4 * length.sqrt().max(0.1),
            "{}: {distance} of {length}",
            one.name()
        );
    }
}

/// A block with a parameter that it does not use.
struct Forgetful {
    used: Parameter,
    forgotten: Parameter,
}

impl StageBlock for Forgetful {
    fn parameters(&self) -> Vec<&Parameter> {
        vec![&self.used, &self.forgotten]
    }

    fn initial_state(&self) -> State {
        State::empty(0)
    }

    fn forward(&self, x: &Tensor, state: &mut State, _compute: &Compute) -> Result<Tensor> {
        state.advance(x.dim(1)?);
        Ok(x.broadcast_mul(self.used.tracked())?)
    }
}

#[test]
fn a_parameter_without_gradient_is_named_at_the_first_step() {
    let mut registry = BlockRegistry::default();
    registry.register_fn("forgetful", |_, args| {
        let parameter = |name| args.builder.parameter(name, &[args.dim], mblm::model::Init::Ones);
        Ok(Box::new(Forgetful {
            used: parameter("used")?,
            forgotten: parameter("forgotten")?,
        }))
    });
    let experiment = experiment(&["params.block={block_type: forgetful}"]);
    let model = model(&experiment, &registry);
    let folder = tempfile::tempdir().expect("a folder");
    let error = Trainer::new(&experiment, model, data(None), folder.path())
        .run(None, &mut (), &AtomicBool::new(false))
        .expect_err("two parameters get no gradient")
        .to_string();
    assert!(error.contains("2 of "), "{error}");
    assert!(
        error.contains(": stage_models.0.forgotten, stage_models.1.forgotten;"),
        "{error}"
    );
}

#[test]
fn a_loss_that_is_not_finite_names_the_batch_its_samples_and_the_last_good_state() {
    let experiment = experiment(&["train.save_state_every=1"]);
    let model = model(&experiment, &BlockRegistry::default());
    let folder = tempfile::tempdir().expect("a folder");
    let error = Trainer::new(&experiment, model, data(Some(7)), folder.path())
        .run(None, &mut (), &AtomicBool::new(false))
        .expect_err("sample 7 is broken");
    assert!(matches!(error, Error::NotFinite { .. }), "{error}");
    let error = error.to_string();
    assert!(
        error.contains("at batch 3 (epoch 0, batch 3 of it, samples [6, 7])"),
        "{error}"
    );
    let good = folder.path().join("states/batch_3");
    assert!(
        error.contains(&format!("the last good state is {}", good.display())),
        "{error}"
    );
    // it holds what was learned before, and nothing of the broken batch
    let saved = SavedState::open(&good).expect("a whole state");
    assert_eq!(saved.state.counts.steps, 3);
    let states = States::new(folder.path(), 2).newest().expect("states").expect("one");
    assert_eq!(states.folder, good);
}

/// Notes what it hears, and asks the run to stop after some batches.
struct Watch<'a> {
    heard: Vec<String>,
    stop_after: u64,
    stop: &'a AtomicBool,
}

impl Observer for Watch<'_> {
    fn event(&mut self, event: &Event<'_>) -> Result<()> {
        match event {
            Event::Batch(BatchReport {
                cum_batch,
                loss,
                logged,
                ..
            }) => {
                self.heard.push(format!("batch {cum_batch} {} {logged}", loss.mean));
                if cum_batch + 1 == self.stop_after {
                    self.stop.store(true, std::sync::atomic::Ordering::Relaxed);
                }
            }
            Event::Evaluated(evaluation) => {
                let (loss, best) = (evaluation.loss.mean, evaluation.best);
                self.heard
                    .push(format!("validated {} {loss} {best}", evaluation.cum_batch));
            }
            Event::Warning(message) => self.heard.push(format!("warning {message}")),
            _ => {}
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<FileLengths> {
        Ok(FileLengths::from([("heard".into(), self.heard.len() as u64)]))
    }
}

#[test]
fn a_run_stopped_after_any_batch_is_heard_to_go_on_as_if_it_had_not() {
    let experiment = experiment(&["train.gradient_accumulate_every=5", "train.shuffle_train=true"]);
    let run = |from: Option<&SavedState>, stop_after, folder: &std::path::Path| {
        let model = model(&experiment, &BlockRegistry::default());
        let stop = AtomicBool::new(false);
        let mut watch = Watch {
            heard: Vec::new(),
            stop_after,
            stop: &stop,
        };
        let trainer = Trainer::new(&experiment, model.clone(), data(None), folder);
        let outcome = trainer.run(from, &mut watch, &stop).expect("a run");
        assert_eq!(outcome.stopped, stop_after <= 12);
        let weights: Vec<Vec<f32>> = model
            .parameters()
            .iter()
            .map(|parameter| floats(parameter.value()))
            .collect();
        (watch.heard, weights, outcome)
    };
    let whole = tempfile::tempdir().expect("a folder");
    let (heard, weights, outcome) = run(None, u64::MAX, whole.path());
    assert_eq!(heard.len(), 12 + 3);
    for stop_after in 1..=12 {
        let folder = tempfile::tempdir().expect("a folder");
        let (mut first, _, stopped) = run(None, stop_after, folder.path());
        assert_eq!(stopped.batches, stop_after);
        let states = States::new(folder.path(), 2);
        let saved = states.newest().expect("states").expect("a state");
        assert_eq!(saved.state.files["heard"], first.len() as u64);
        let (second, found, ended) = run(Some(&saved), u64::MAX, folder.path());
        first.extend(second);
        assert_eq!(first, heard, "stopped after {stop_after}");
        assert_eq!(found, weights);
        assert_eq!((ended.best, ended.last_loss), (outcome.best, outcome.last_loss));
        let kept =
            |folder: &std::path::Path| std::fs::read_to_string(folder.join("models/index.json")).expect("an index");
        assert_eq!(kept(folder.path()), kept(whole.path()));
    }
}

#[test]
fn runs_with_other_optimizers_and_schedules_go_on_as_if_they_had_not_stopped() {
    let recipes: [&[&str]; 3] = [
        &["train.optimizer=sgd", "train.momentum=0.9", "train.schedule=constant"],
        &[
            "train.optimizer=sgd",
            "train.schedule=wsd",
            "train.cooldown_steps_perc=0.5",
        ],
        &[
            "train.optimizer=adamw",
            "train.weight_decay=0.1",
            "train.decay=['*.weight']",
            "train.schedule=wsd",
        ],
    ];
    let mut found = Vec::new();
    for recipe in recipes {
        let experiment = experiment(&[recipe, &["train.gradient_accumulate_every=2"]].concat());
        let run = |from: Option<&SavedState>, stop_after, folder: &std::path::Path| {
            let model = model(&experiment, &BlockRegistry::default());
            let stop = AtomicBool::new(false);
            let mut watch = Watch {
                heard: Vec::new(),
                stop_after,
                stop: &stop,
            };
            let trainer = Trainer::new(&experiment, model.clone(), data(None), folder);
            trainer.run(from, &mut watch, &stop).expect("a run");
            let weights = model.parameters().iter().map(|parameter| floats(parameter.value()));
            (watch.heard, weights.collect::<Vec<_>>())
        };
        let folders = [(); 2].map(|()| tempfile::tempdir().expect("a folder"));
        let (heard, weights) = run(None, u64::MAX, folders[0].path());
        let (mut first, _) = run(None, 5, folders[1].path());
        let saved = States::new(folders[1].path(), 2)
            .newest()
            .expect("states")
            .expect("one");
        let (second, resumed) = run(Some(&saved), u64::MAX, folders[1].path());
        first.extend(second);
        assert_eq!((first, &resumed), (heard, &weights), "{recipe:?}");
        assert!(!found.contains(&weights), "{recipe:?} changes nothing");
        found.push(weights);
    }
}

#[test]
fn more_points_than_batches_are_clipped_with_a_warning() {
    let experiment = experiment(&["io.validate_amount=13"]);
    let model = model(&experiment, &BlockRegistry::default());
    let folder = tempfile::tempdir().expect("a folder");
    let stop = AtomicBool::new(false);
    let mut watch = Watch {
        heard: Vec::new(),
        stop_after: u64::MAX,
        stop: &stop,
    };
    let trainer = Trainer::new(&experiment, model, data(None), folder.path());
    trainer.run(None, &mut watch, &stop).expect("a run");
    assert_eq!(
        watch.heard[0],
        "warning io.validate_amount: 13 is more than the run's batches, so it is done 12 times"
    );
    assert_eq!(
        watch.heard.iter().filter(|line| line.starts_with("validated")).count(),
        12
    );
}

/// With a learning rate of 0 no validation after the first has a lower loss: the run ends after
/// `early_stopping` more of them, tests nothing twice when resumed, and is not called stopped.
#[test]
fn a_run_ends_when_the_validation_loss_no_longer_falls() {
    let experiment = experiment(&[
        "train.learning_rate=0",
        "train.early_stopping=2",
        "io.validate_amount=10",
        "train.target_elements=60",
    ]);
    let folder = tempfile::tempdir().unwrap();
    let model = model(&experiment, &BlockRegistry::default());
    let trainer = Trainer::new(&experiment, model, data(None), folder.path());
    let never = AtomicBool::new(false);
    let outcome = trainer.run(None, &mut (), &never).unwrap();
    assert!(outcome.ended_early && !outcome.stopped, "{outcome:?}");
    let states = States::new(folder.path(), 2).newest().unwrap().expect("a state");
    assert_eq!(states.state.since_best, 2);
    assert!(outcome.batches < trainer.plan().batches, "{outcome:?}");
    let again = trainer.run(Some(&states), &mut (), &never).unwrap();
    assert_eq!((again.batches, again.ended_early), (outcome.batches, true));
}
