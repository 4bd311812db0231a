//! Tests of `loader.rs`.

use super::*;
use crate::data::{DatasetArgs, Sample, SequenceOptions, Sequential, Split};
use proptest::prelude::*;
use std::sync::Mutex;

fn letters(total: u64, sample_len: usize) -> Arc<dyn Dataset> {
    let bytes: Vec<u8> = (0..total).map(|index| (index % 256) as u8).collect();
    let args = DatasetArgs::new("", Split::Train, sample_len);
    Arc::new(Sequential::new(Arc::new(bytes), 0..total, &args, SequenceOptions::default(), "numbers").unwrap())
}

fn take(dataset: &Arc<dyn Dataset>, options: LoaderOptions, count: usize) -> Vec<Batch> {
    let loader = Loader::new(dataset.clone(), options).unwrap();
    loader.take(count).map(Result::unwrap).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn a_resumed_run_continues_exactly(
        total in 60u64..200, sample_len in 1usize..8, batch_size in 1usize..5, done in 0usize..60, seed: Option<u64>
    ) {
        let dataset = letters(total, sample_len);
        let order = seed.map_or(Order::Sequential, |seed| Order::Shuffled { seed });
        let options = LoaderOptions::training(batch_size, order, Position::default());
        let whole = take(&dataset, options, done + 20);
        let start = if done == 0 { Position::default() } else { whole[done - 1].next };
        prop_assert_eq!(start, whole[done].position);
        let rest = take(&dataset, LoaderOptions { start, ..options }, 20);
        prop_assert_eq!(&rest, &whole[done..]);
    }

    #[test]
    fn an_epoch_has_every_sample_once(total in 20u64..200, batch_size in 1usize..9, seed: Option<u64>) {
        let dataset = letters(total, 3);
        let order = seed.map_or(Order::Sequential, |seed| Order::Shuffled { seed });
        let batches = take(&dataset, LoaderOptions::evaluation(batch_size, order), usize::MAX);
        let mut seen: Vec<usize> = batches.iter().flat_map(|batch| batch.samples.clone()).collect();
        prop_assert_eq!(batches.len(), dataset.len(0).div_ceil(batch_size));
        for batch in &batches {
            for (row, &index) in batch.samples.iter().enumerate() {
                let expected = dataset.sample(index, 0).unwrap().ids;
                prop_assert_eq!(&batch.ids[row * batch.len..][..batch.len], &expected);
            }
        }
        seen.sort_unstable();
        prop_assert_eq!(seen, (0..dataset.len(0)).collect::<Vec<_>>());
    }
}

#[test]
fn training_drops_the_partial_batch_and_evaluation_keeps_it() {
    // 22 bytes: 7 samples of 3 in epochs 0 and 1, 6 in epoch 2
    let dataset = letters(22, 3);
    let training = LoaderOptions::training(2, Order::Sequential, Position::default());
    let found: Vec<_> = take(&dataset, training, 7)
        .iter()
        .map(|batch| (batch.position.epoch, batch.position.batch, batch.rows, batch.ids[0]))
        .collect();
    let expected = [
        (0, 0, 2, 0),
        (0, 1, 2, 6),
        (0, 2, 2, 12),
        (1, 0, 2, 1),
        (1, 1, 2, 7),
        (1, 2, 2, 13),
        (2, 0, 2, 2),
    ];
    assert_eq!(found, expected);
    let evaluation = take(&dataset, LoaderOptions::evaluation(2, Order::Sequential), usize::MAX);
    assert_eq!(
        evaluation.iter().map(|batch| batch.rows).collect::<Vec<_>>(),
        [2, 2, 2, 1]
    );
    assert_eq!(evaluation[3].ids, [18, 19, 20]);
}

#[test]
fn shuffled_epochs_differ() {
    let dataset = letters(240, 3);
    let options = LoaderOptions::training(70, Order::Shuffled { seed: 5 }, Position::default());
    let batches = take(&dataset, options, 2);
    assert_eq!((batches[0].position.epoch, batches[1].position.epoch), (0, 1));
    assert_ne!(batches[0].samples, batches[1].samples);
    assert_ne!(batches[0].samples, (0..70).collect::<Vec<_>>());
}

#[test]
fn epochs_without_a_full_batch_are_skipped() {
    // 8 bytes: one batch of 2 samples in epoch 0, none in epochs 1, 2 and 3
    let dataset = letters(8, 4);
    let options = LoaderOptions::training(2, Order::Sequential, Position::default());
    let epochs: Vec<_> = take(&dataset, options, 3)
        .iter()
        .map(|batch| batch.position.epoch)
        .collect();
    assert_eq!(epochs, [0, 4, 8]);
    let message = Loader::new(
        dataset.clone(),
        LoaderOptions {
            batch_size: 3,
            ..options
        },
    )
    .err()
    .unwrap();
    assert!(
        message.to_string().contains("2 samples do not fill one batch of 3"),
        "{message}"
    );
    let message = Loader::new(
        dataset,
        LoaderOptions {
            batch_size: 0,
            ..options
        },
    )
    .err()
    .unwrap();
    assert!(message.to_string().contains("batch_size is 0"), "{message}");
}

/// Endless samples from a function.
struct Custom<F>(F);

impl<F: Fn(usize) -> Result<Sample> + Send + Sync> Dataset for Custom<F> {
    fn len(&self, _: usize) -> usize {
        usize::MAX
    }

    fn sample(&self, index: usize, _: usize) -> Result<Sample> {
        (self.0)(index)
    }

    fn bytes(&self) -> u64 {
        0
    }

    fn describe(&self) -> String {
        "custom".into()
    }
}

fn custom(sample: impl Fn(usize) -> Result<Sample> + Send + Sync + 'static) -> Loader {
    let options = LoaderOptions::training(2, Order::Sequential, Position::default());
    Loader::new(Arc::new(Custom(sample)), options).unwrap()
}

fn ids(len: usize) -> Sample {
    Sample {
        ids: vec![0; len],
        ..Sample::default()
    }
}

#[test]
fn errors_of_the_data_set_end_the_batches() {
    let fail_at_5 = |index| {
        if index == 5 {
            Err(Error::input("broken"))
        } else {
            Ok(ids(3))
        }
    };
    let mut loader = custom(fail_at_5);
    assert!(loader.next().unwrap().is_ok());
    assert!(loader.next().unwrap().is_ok());
    assert_eq!(loader.next().unwrap().unwrap_err().to_string(), "broken");
    assert!(loader.next().is_none());
}

#[test]
fn a_panic_of_the_data_set_is_an_error() {
    let mut loader = custom(|index| {
        assert!(index < 3, "index {index}");
        Ok(ids(3))
    });
    assert!(loader.next().unwrap().is_ok());
    let message = loader.next().unwrap().unwrap_err().to_string();
    assert_eq!(message, "the data set panicked: index 3");
    assert!(loader.next().is_none());
}

#[test]
fn samples_of_several_shapes_are_errors() {
    let message = |second: Sample| {
        let samples = Mutex::new(vec![second, ids(3)]);
        let mut loader = custom(move |_| Ok(samples.lock().unwrap().pop().unwrap()));
        loader.next().unwrap().unwrap_err().to_string()
    };
    assert_eq!(
        message(ids(4)),
        "epoch 0, sample 1: expected 3 elements in ids, found 4"
    );
    let weighted = Sample {
        loss_weights: Some(vec![1.0; 3]),
        ..ids(3)
    };
    assert!(message(weighted).contains("expected loss_weights in all samples"));
}

#[test]
fn every_field_is_stacked() {
    let batch = custom(|index| {
        Ok(Sample {
            ids: vec![index as u32; 2],
            loss_weights: Some(vec![index as f32, 0.5]),
            labels: Some(vec![7, index as u32]),
            masked: Some(vec![true, index == 1]),
        })
    })
    .next()
    .unwrap()
    .unwrap();
    assert_eq!((batch.rows, batch.len, batch.ids), (2, 2, vec![0, 0, 1, 1]));
    assert_eq!(batch.loss_weights.unwrap(), [0.0, 0.5, 1.0, 0.5]);
    assert_eq!(batch.labels.unwrap(), [7, 0, 7, 1]);
    assert_eq!(batch.masked.unwrap(), [true, false, true, true]);
}

#[test]
fn dropping_stops_the_thread() {
    let dataset: Arc<dyn Dataset> = Arc::new(Custom(|_| Ok(ids(3))));
    let options = LoaderOptions::training(2, Order::Sequential, Position::default());
    let mut loader = Loader::new(dataset.clone(), options).unwrap();
    loader.next().unwrap().unwrap();
    // the drop joins the thread, which gives back its share of the data set
    drop(loader);
    assert_eq!(Arc::strong_count(&dataset), 1);
}
