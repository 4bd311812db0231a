//! Runs of several workers on several ranks: equal whatever the number of ranks, agreed stops and
//! failures, states that any number of ranks continues.

mod support;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use candle_core::Device;
use mblm::blocks::BlockRegistry;
use mblm::config::Experiment;
use mblm::data::{Dataset, Sample};
use mblm::model::{Model, Seeded};
use mblm::train::{Event, Observer, Outcome, States, Trainer, TrainingData};
use mblm::{Error, Result};
use mblm_group::{Alone, Group, Threads};

const WORKERS: usize = 4;

/// A small experiment of four workers; `changes` are overrides as on the command line.
fn experiment(block: &str, changes: &[&str]) -> Experiment {
    let text = format!(
        "
io: {{name_model: t, output_dir: runs, dataset_dir: none, dataset_id: none, num_models_to_save: 2, validate_amount: 3,
     log_train_loss_amount: 4}}
params:
  input_seq_len: 12
  num_tokens: 257
  pad_token_id: 256
  seq_lens: [4, 3]
  hidden_dims: [16, 8]
  num_layers: [1, 1]
  block: {block}
train: {{target_elements: 96, target_elements_strategy: batch, batch_size: 2, learning_rate: 1e-2, workers: {WORKERS},
        gradient_clipping: 0.5, gradient_accumulate_every: 2, shuffle_train: true}}
"
    );
    let changes: Vec<String> = changes.iter().map(ToString::to_string).collect();
    Experiment::from_yaml_str(&text, "test", &changes).expect("a valid configuration")
}

const TRANSFORMER: &str =
    "{attn_head_dims: 4, attn_num_heads: 2, attn_use_rot_embs: true, pos_emb_type: fixed, attn_dropout: 0.1}";
const MAMBA: &str = "
    - {block_type: mamba2, d_state: 8, d_conv: 4, expand: 2, headdim: 8, pos_emb_type: null}
    - {attn_head_dims: 4, attn_num_heads: 2, attn_use_rot_embs: true, pos_emb_type: fixed}";

/// The letters of one worker: other lengths and other numbers of padding ids for each.
struct Letters {
    worker: usize,
    broken: bool,
}

impl Dataset for Letters {
    fn len(&self, _: usize) -> usize {
        12 + self.worker
    }

    fn sample(&self, index: usize, epoch: usize) -> Result<Sample> {
        if self.broken && index == 7 {
            return Err(Error::input("sample 7 cannot be read"));
        }
        let length = 12 - (index + self.worker) % 4;
        let letter = |place: usize| match place < length {
            true => 97 + ((index * 5 + place * (self.worker + 1) + epoch) % 26) as u32,
            false => 256,
        };
        Ok(Sample {
            ids: (0..12).map(letter).collect(),
            ..Sample::default()
        })
    }

    fn bytes(&self) -> u64 {
        144
    }

    fn describe(&self) -> String {
        format!("letters of worker {}", self.worker)
    }
}

fn data(broken: Option<usize>) -> TrainingData {
    let part = |worker| -> Arc<dyn Dataset> {
        let broken = broken == Some(worker);
        Arc::new(Letters { worker, broken })
    };
    TrainingData {
        train: part(0),
        other_workers: (1..WORKERS).map(part).collect(),
        validation: Some(Arc::new(Letters {
            worker: 1,
            broken: false,
        })),
        test: None,
    }
}

/// What a rank has seen: losses of all workers, and the norms of the steps.
#[derive(Clone, Debug, Default, PartialEq)]
struct Seen {
    losses: Vec<f64>,
    norms: Vec<f64>,
    validations: Vec<f64>,
}

struct Watch<'a> {
    seen: Seen,
    /// Asks to stop after this batch.
    stop_after: Option<(u64, &'a AtomicBool)>,
}

impl Observer for Watch<'_> {
    fn event(&mut self, event: &Event<'_>) -> Result<()> {
        match event {
            Event::Batch(report) => {
                self.seen.losses.push(report.loss.mean);
                if report.worker == 0 {
                    self.seen.norms.extend(report.norm.map(|norm| norm.before));
                }
                if let Some((batch, stop)) = self.stop_after.filter(|(batch, _)| *batch == report.cum_batch) {
                    assert_eq!(batch, report.cum_batch);
                    stop.store(true, Ordering::Relaxed);
                }
            }
            Event::Evaluated(evaluation) => self.seen.validations.push(evaluation.loss.mean),
            _ => {}
        }
        Ok(())
    }
}

/// The end of a rank's run: what it saw, its weights, the outcome.
type End = (Seen, Vec<f32>, Outcome);

/// Runs one rank in `folder`, from its newest state if there is one. With `stop_after`, rank
/// `stop_after.0` is asked to stop after batch `stop_after.1`.
fn rank(
    experiment: &Experiment,
    group: Arc<dyn Group>,
    folder: &Path,
    broken: Option<usize>,
    stop_after: Option<(usize, u64)>,
) -> Result<End> {
    let blocks = BlockRegistry::default();
    let model = Model::new(&experiment.params.architecture, &blocks, &Seeded(1), &Device::Cpu)?;
    let model = Arc::new(model);
    let stop = AtomicBool::new(false);
    let mut watch = Watch {
        seen: Seen::default(),
        stop_after: stop_after
            .filter(|(rank, _)| *rank == group.rank())
            .map(|(_, batch)| (batch, &stop)),
    };
    let newest = States::new(folder, 2).newest()?;
    group.barrier()?;
    let trainer = Trainer::new(experiment, model.clone(), data(broken), folder).among(group);
    let outcome = trainer.run(newest.as_ref(), &mut watch, &stop)?;
    let mut weights = Vec::new();
    for parameter in model.parameters().iter() {
        weights.extend(parameter.value().flatten_all()?.to_vec1::<f32>()?);
    }
    Ok((watch.seen, weights, outcome))
}

/// Runs all ranks of a group of threads in one folder.
fn ranks(
    size: usize,
    experiment: &Experiment,
    folder: &Path,
    broken: Option<usize>,
    stop_after: Option<(usize, u64)>,
) -> Vec<Result<End>> {
    if size == 1 {
        return vec![rank(experiment, Arc::new(Alone), folder, broken, stop_after)];
    }
    std::thread::scope(|scope| {
        let threads: Vec<_> = Threads::new(size)
            .into_iter()
            .map(|group| scope.spawn(move || rank(experiment, Arc::new(group), folder, broken, stop_after)))
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}

fn close(ours: &[f32], theirs: &[f32], bound: f32) -> bool {
    let largest = ours.iter().zip(theirs).map(|(a, b)| (a - b).abs()).fold(0f32, f32::max);
    ours.len() == theirs.len() && largest < bound
}

#[test]
fn any_number_of_ranks_computes_the_same_run() {
    for block in [TRANSFORMER, MAMBA] {
        let experiment = experiment(block, &[]);
        let folder = tempfile::tempdir().unwrap();
        let (seen, weights, outcome) = ranks(1, &experiment, folder.path(), None, None).remove(0).unwrap();
        assert_eq!((outcome.batches, seen.losses.len()), (12, 12 * WORKERS));
        for size in [2, 4] {
            let folder = tempfile::tempdir().unwrap();
            let ends = ranks(size, &experiment, folder.path(), None, None);
            let ends: Vec<End> = ends.into_iter().map(Result::unwrap).collect();
            for (rank, (ours, own, outcome)) in ends.iter().enumerate() {
                assert_eq!(
                    own, &ends[0].1,
                    "rank {rank} of {size} has the weights of rank 0, bit for bit"
                );
                assert_eq!(ours, &ends[0].0, "rank {rank} of {size} saw what rank 0 saw");
                assert!(close(own, &weights, 1e-5), "rank {rank} of {size}");
                assert_eq!(
                    outcome.best.map(|loss| loss.count),
                    ends[0].2.best.map(|loss| loss.count)
                );
            }
            let ours = &ends[0].0;
            for (ours, theirs) in [
                (&ours.losses, &seen.losses),
                (&ours.norms, &seen.norms),
                (&ours.validations, &seen.validations),
            ] {
                assert_eq!(ours.len(), theirs.len());
                assert!(
                    ours.iter().zip(theirs).all(|(a, b)| (a - b).abs() < 1e-5),
                    "{ours:?} {theirs:?}"
                );
            }
            assert!(folder.path().join("models/index.json").exists());
            let again = tempfile::tempdir().unwrap();
            let repeated = ranks(size, &experiment, again.path(), None, None).remove(0).unwrap();
            assert_eq!(
                (&repeated.0, &repeated.1),
                (&ends[0].0, &ends[0].1),
                "the same bits twice"
            );
        }
    }
}

#[test]
fn ranks_stop_together_and_any_number_of_them_continues() {
    let experiment = experiment(TRANSFORMER, &[]);
    let folder = tempfile::tempdir().unwrap();
    let (_, whole, _) = ranks(2, &experiment, folder.path(), None, None).remove(0).unwrap();
    for next in [1, 2, 4] {
        let folder = tempfile::tempdir().unwrap();
        // rank 1 alone is asked to stop, after the first of the two batches of a step
        let ends = ranks(2, &experiment, folder.path(), None, Some((1, 4)));
        for end in ends {
            let (_, _, outcome) = end.unwrap();
            assert!(outcome.stopped);
            assert_eq!(outcome.batches, 6, "the step was finished first");
        }
        let (_, weights, outcome) = ranks(next, &experiment, folder.path(), None, None).remove(0).unwrap();
        assert!(!outcome.stopped);
        assert!(close(&weights, &whole, 1e-5), "continued on {next} ranks");
        if next == 2 {
            assert_eq!(weights, whole, "the same number of ranks: bit for bit");
        }
    }
}

#[test]
fn the_failure_of_a_rank_ends_all() {
    let experiment = experiment(TRANSFORMER, &["train.shuffle_train=false"]);
    let folder = tempfile::tempdir().unwrap();
    let ends = ranks(2, &experiment, folder.path(), Some(3), None);
    for end in ends {
        let error = end.unwrap_err().to_string();
        assert!(error.contains("sample 7 cannot be read"), "{error}");
    }
}

#[test]
fn ranks_have_to_divide_the_workers() {
    let experiment = experiment(TRANSFORMER, &[]);
    let folder = tempfile::tempdir().unwrap();
    for end in ranks(3, &experiment, folder.path(), None, None) {
        let error = end.unwrap_err().to_string();
        assert!(
            error.contains("train.workers is 4") && error.contains("start 1, 2, 4 of them"),
            "{error}"
        );
    }
}
