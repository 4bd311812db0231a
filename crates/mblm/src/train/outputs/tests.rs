//! Runs that are recorded, killed, resumed, and recorded on full disks.
//!
//! Longer than 450 lines: the tests share one made-up run and compare all of its files.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::checkpoint::append::test_storage::Disk;
use crate::model::Loss;
use crate::train::optimizer::GradientNorm;
use crate::train::plan::RunPlan;
use crate::train::trainable::Metric;
use crate::unit::Counted;

const BATCHES: u64 = 12;

/// The loss of batch `batch`, with more digits than a short form keeps.
fn loss(batch: u64) -> Loss {
    Loss {
        mean: 5.545_177_444_479_562 / (batch + 1) as f64,
        count: 64,
        weighted: false,
    }
}

fn report(cum_batch: u64) -> BatchReport {
    BatchReport {
        worker: 0,
        workers: 1,
        mean_loss: loss(cum_batch),
        epoch: (cum_batch / 5) as usize,
        batch: (cum_batch % 5) as usize,
        cum_batch,
        elements_seen: (cum_batch + 1) * 64,
        samples: 2,
        bytes: 64,
        loss: loss(cum_batch),
        lr: 1e-4 * (cum_batch + 1) as f64,
        norm: (cum_batch % 2 == 1).then_some(GradientNorm {
            before: 4.0,
            after: 1.0,
            mean: -1.2e-9,
        }),
        logged: cum_batch % 3 != 2,
        forward: Duration::from_millis(250),
        backward: Duration::from_millis(750),
    }
}

fn evaluation(kind: EvaluationKind, cum_batch: u64) -> Evaluation {
    let BatchReport {
        epoch,
        batch,
        elements_seen,
        ..
    } = report(cum_batch);
    Evaluation {
        kind,
        epoch,
        batch,
        cum_batch,
        elements_seen,
        samples: 7,
        loss: loss(cum_batch),
        metric: None,
        time: Duration::from_millis(1500),
        best: true,
    }
}

/// Sends the events of batches `from..to`: validation after each fourth; end and test after the
/// last.
fn run(files: &mut RunFiles, from: u64, to: u64) {
    let plan = RunPlan {
        elements_per_batch: 64,
        batches: BATCHES,
        steps: BATCHES / 2,
    };
    let mut hear = |event: Event<'_>| files.event(&event).unwrap();
    hear(Event::Start { plan, done: from });
    for batch in from..to {
        hear(Event::Batch(report(batch)));
        if batch % 4 == 3 {
            hear(Event::Evaluating { done: 1, of: 1 });
            hear(Event::Evaluated(evaluation(EvaluationKind::Validation, batch)));
        }
    }
    if to == BATCHES {
        hear(Event::Evaluated(evaluation(EvaluationKind::Test, BATCHES - 1)));
        hear(Event::End {
            batches: BATCHES,
            stopped: false,
        });
    }
}

fn read(folder: &Path, name: &str) -> String {
    std::fs::read_to_string(folder.join(name)).unwrap()
}

/// The rows of a file without the columns that depend on a clock or on memory.
fn rows(folder: &Path, name: &str, without: &[usize]) -> Vec<String> {
    let row = |line: &str| {
        let columns = line.split(',').enumerate();
        let columns: Vec<&str> = columns
            .filter(|(i, _)| !without.contains(i))
            .map(|(_, column)| column)
            .collect();
        columns.join(",")
    };
    read(folder, name).lines().map(row).collect()
}

/// A scalar of an event file: step, tag, value.
type Scalar = (u64, String, f32);

/// The scalars of the only event file in a folder, read by protobuf's rules: any field order.
fn scalars(folder: &Path) -> Vec<Scalar> {
    let names: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.starts_with("events.out.tfevents."))
        .collect();
    let [name] = &names[..] else {
        panic!("expected one event file, found {names:?}");
    };
    let bytes = std::fs::read(folder.join(name)).unwrap();
    let mut rest = &bytes[..];
    let mut found = Vec::new();
    let mut versions = Vec::new();
    while !rest.is_empty() {
        let length = u64::from_le_bytes(rest[..8].try_into().unwrap()) as usize;
        let data = &rest[12..12 + length];
        for (covered, sum) in [(&rest[..8], &rest[8..12]), (data, &rest[12 + length..16 + length])] {
            let crc = plain_crc32c(covered);
            let masked = crc.rotate_right(15).wrapping_add(0xa282_ead8);
            assert_eq!(masked.to_le_bytes(), sum);
        }
        rest = &rest[16 + length..];
        let event = fields(data);
        assert_eq!(event[&1].len(), 1, "a wall time");
        versions.extend(event.get(&3).into_iter().flatten().map(|version| version.bytes.clone()));
        let step = event.get(&2).map_or(0, |steps| steps[0].number);
        for summary in event.get(&5).into_iter().flatten() {
            for value in &fields(&summary.bytes)[&1] {
                let value = fields(&value.bytes);
                let tag = String::from_utf8(value[&1][0].bytes.clone()).unwrap();
                let number = f32::from_bits(value[&2][0].number as u32);
                found.push((step, tag, number));
            }
        }
    }
    assert_eq!(versions, [b"brain.Event:2".to_vec()]);
    found
}

#[derive(Default)]
struct Field {
    number: u64,
    bytes: Vec<u8>,
}

/// The fields of a protobuf message by number.
fn fields(mut data: &[u8]) -> BTreeMap<u64, Vec<Field>> {
    fn varint(data: &mut &[u8]) -> u64 {
        let mut value = 0;
        for shift in (0..).step_by(7) {
            let (byte, rest) = data.split_first().unwrap();
            *data = rest;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                break;
            }
        }
        value
    }
    fn take<'a>(data: &mut &'a [u8], length: usize) -> &'a [u8] {
        let (taken, rest) = data.split_at(length);
        *data = rest;
        taken
    }
    let mut found: BTreeMap<u64, Vec<Field>> = BTreeMap::new();
    while !data.is_empty() {
        let key = varint(&mut data);
        let mut field = Field::default();
        match key & 7 {
            0 => field.number = varint(&mut data),
            1 => field.number = u64::from_le_bytes(take(&mut data, 8).try_into().unwrap()),
            2 => {
                let length = varint(&mut data) as usize;
                field.bytes = take(&mut data, length).to_vec();
            }
            5 => field.number = u32::from_le_bytes(take(&mut data, 4).try_into().unwrap()).into(),
            other => panic!("wire type {other}"),
        }
        found.entry(key >> 3).or_default().push(field);
    }
    found
}

/// CRC-32C bit by bit.
fn plain_crc32c(data: &[u8]) -> u32 {
    !data.iter().fold(!0u32, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            (crc >> 1) ^ (0x82f6_3b78 & (crc & 1).wrapping_neg())
        })
    })
}

/// The content that two runs of the same batches must share.
fn content(folder: &Path) -> (Vec<String>, Vec<String>, Vec<Scalar>) {
    (
        rows(folder, LOSS_FILE, &[1]),
        rows(folder, TIMEMEM_FILE, &[5, 6, 7, 8, 9]),
        scalars(folder),
    )
}

fn uninterrupted() -> (tempfile::TempDir, RunFiles) {
    let folder = tempfile::tempdir().unwrap();
    let mut files = RunFiles::create(folder.path(), RunFilesOptions::default()).unwrap();
    run(&mut files, 0, BATCHES);
    (folder, files)
}

#[test]
fn rows_have_the_columns_that_the_package_writes() {
    let (folder, _) = uninterrupted();
    let losses = rows(folder.path(), LOSS_FILE, &[1]);
    assert_eq!(
        losses[..4],
        [
            "gpu_rank,elements_seen,kind,epoch,batch,cum_batch,loss,lr,avg_grad,avg_grad_clipped",
            "0,64,train,0,0,0,5.545177444479562,0.0001,-1,-1",
            "0,128,train,0,1,1,2.772588722239781,0.0002,-0.0000000012,-0.0000000003",
            "0,256,train,0,3,3,1.3862943611198906,0.0004,-0.0000000012,-0.0000000003",
        ]
    );
    assert_eq!(losses[4], "0,256,valid,0,3,3,1.3862943611198906,-1,-1,-1");
    assert_eq!(
        losses.last().unwrap(),
        "0,-1,test,-1,-1,-1,0.46209812037329684,-1,-1,-1"
    );
    assert_eq!(losses.len(), 1 + 8 + 3 + 1);

    let times = rows(folder.path(), TIMEMEM_FILE, &[]);
    assert_eq!(
        times[0],
        "cum_batch,num_items,kind,fw_time,bw_time,allocated,allocated_max,reserved,reserved_max,total"
    );
    assert!(times[1].starts_with("0,2,train,0.25,0.75,"), "{}", times[1]);
    assert!(times[4].starts_with("3,7,valid,1.5,-1,"), "{}", times[4]);
    assert!(times.last().unwrap().starts_with("11,7,test,1.5,-1,"));
    assert_eq!(times.len(), losses.len());
}

#[test]
fn what_is_written_is_read_back() {
    let (folder, _) = uninterrupted();
    let path = folder.path().join(LOSS_FILE);
    let log = read_losses(&path).unwrap();
    assert!(!log.torn);
    let kinds: Vec<LossKind> = log.rows.iter().map(|row| row.kind).collect();
    assert_eq!(kinds.iter().filter(|kind| **kind == LossKind::Training).count(), 8);
    assert_eq!(kinds.last(), Some(&LossKind::Test));
    for row in &log.rows[..log.rows.len() - 1] {
        let batch = row.cum_batch.unwrap();
        assert_eq!(row.loss, loss(batch).mean);
        assert_eq!(row.elements_seen, Some((batch + 1) * 64));
        let training = row.kind == LossKind::Training;
        assert_eq!(row.lr, training.then_some(report(batch).lr));
    }
    let test = log.rows.last().unwrap();
    assert_eq!((test.cum_batch, test.elements_seen, test.lr), (None, None, None));

    // line ends as of Python's csv module; killed in the middle of a line
    let text = read(folder.path(), LOSS_FILE).replace('\n', "\r\n");
    std::fs::write(&path, &text[..text.len() - 5]).unwrap();
    let killed = read_losses(&path).unwrap();
    assert!(killed.torn);
    assert_eq!(killed.rows, log.rows[..log.rows.len() - 1]);
}

#[test]
fn damaged_losses_are_named_by_their_line() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(LOSS_FILE);
    let good = "0,2026-11-25 07:31:02.123456,64,train,0,0,0,nan,1e-05,-1,-1\n";
    for (bad, expected) in [
        ("0,2026-11-25 07:31:02,64,train\n", "expected 11 columns, found 4"),
        (
            &good.replace("nan", "a lot"),
            "line 3: loss: expected a number, found \"a lot\"",
        ),
        (&good.replace("train", "other"), "kind: expected train, valid or test"),
        (&good.replace(",64,", ",6.5,"), "elements_seen: expected a whole number"),
        (&good.replace("2026-11", "2026-21"), "timestamp: expected a time"),
        (
            &good.replace("-1\n", "\n"),
            "avg_grad_clipped: expected a number, found \"\"",
        ),
    ] {
        std::fs::write(&path, [loss_csv::HEADER, good, bad, good].concat()).unwrap();
        let error = read_losses(&path).unwrap_err().to_string();
        assert!(
            error.contains("loss.csv: line 3") && error.contains(expected),
            "{error}"
        );
    }
    std::fs::write(&path, "a,b\n1,2\n").unwrap();
    assert!(
        read_losses(&path)
            .unwrap_err()
            .to_string()
            .contains("line 1: expected the columns")
    );
    std::fs::write(&path, [loss_csv::HEADER, good].concat()).unwrap();
    assert!(read_losses(&path).unwrap().rows[0].loss.is_nan());
}

proptest! {
    /// No content of a loss.csv makes the reader panic.
    #[test]
    fn any_bytes_are_losses_or_an_error(lines in prop::collection::vec("[-0-9a-z:., ]{0,60}|\\PC{0,20}", 0..6), end in any::<bool>()) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(LOSS_FILE);
        let text = format!("{}{}{}", loss_csv::HEADER, lines.join("\n"), if end { "\n" } else { "" });
        std::fs::write(&path, text).unwrap();
        let _ = read_losses(&path);
    }
}

#[test]
fn scalars_are_in_the_event_file() {
    let (folder, _) = uninterrupted();
    let scalars = scalars(folder.path());
    let of = |step: u64, tag: &str| {
        let found = scalars.iter().find(|(at, name, _)| *at == step && name == tag);
        found.map(|(_, _, value)| *value)
    };
    assert_eq!(of(0, "loss/train"), Some(loss(0).mean as f32));
    assert_eq!(of(0, "bits_per_byte/train"), Some(8.0));
    assert_eq!(of(0, "gradient_norm"), None);
    assert_eq!(of(0, "bytes_per_second"), Some(64.0));
    assert_eq!(of(1, "gradient_norm"), Some(4.0));
    assert_eq!(of(1, "gradient_norm_clipped"), Some(1.0));
    assert_eq!(of(1, "learning_rate"), Some(2e-4));
    assert_eq!(of(2, "loss/train"), None, "batch 2 is not logged");
    assert_eq!(of(3, "loss/valid"), Some(loss(3).mean as f32));
    assert_eq!(of(3, "bits_per_byte/valid"), Some(2.0));
    assert_eq!(of(11, "loss/test"), Some(loss(11).mean as f32));
    assert_eq!(of(11, "bits_per_byte/test"), Some((8.0 / 12.0) as f32));
}

#[test]
fn a_classifier_counts_answers_and_says_how_many_are_right() {
    let folder = tempfile::tempdir().unwrap();
    let options = RunFilesOptions {
        unit: Unit {
            singular: "answer",
            plural: "answers",
            counted: Counted::Samples,
        },
        ..RunFilesOptions::default()
    };
    let mut files = RunFiles::create(folder.path(), options).unwrap();
    let validation = Evaluation {
        metric: Some(Metric {
            name: Metric::ACCURACY,
            sum: 5.0,
            count: 8,
        }),
        ..evaluation(EvaluationKind::Validation, 3)
    };
    for event in [Event::Batch(report(0)), Event::Evaluated(validation)] {
        files.event(&event).unwrap();
    }
    let scalars = scalars(folder.path());
    let of = |tag: &str| {
        scalars
            .iter()
            .find(|(_, name, _)| name == tag)
            .map(|(_, _, value)| *value)
    };
    assert_eq!(of("answers_per_second"), Some(report(0).samples as f32));
    assert_eq!(of("bits_per_answer/train"), Some(8.0));
    assert_eq!(of("bits_per_answer/valid"), Some(2.0));
    assert_eq!(of("accuracy/valid"), Some(0.625));
    assert_eq!(of("bytes_per_second"), None);
    let log = read(folder.path(), TRAIN_LOG);
    assert!(log.contains("62.50 % right  2.0000 bits per answer"), "{log}");
}

#[test]
fn a_weighted_loss_is_not_called_bits_per_byte() {
    let of = |weights: &[f32]| loss(0).with_weights(Some(weights)).bits_in_words();
    assert_eq!((of(&[0.0, 1.0]), of(&[])), ("bits", "bits"));
    assert_eq!(of(&[1.0, 0.5]), "weighted bits");
    let folder = tempfile::tempdir().unwrap();
    let mut files = RunFiles::create(folder.path(), RunFilesOptions::default()).unwrap();
    let mut report = report(0);
    report.loss.weighted = true;
    report.mean_loss = report.loss;
    files.event(&Event::Batch(report)).unwrap();
    let log = read(folder.path(), TRAIN_LOG);
    assert!(log.contains("8.0000 weighted bits per byte"), "{log}");
}

#[test]
fn the_log_tells_the_run() {
    let (folder, mut files) = uninterrupted();
    files.note("1_000 parameters\non the CPU");
    files
        .event(&Event::StateSaved {
            folder: Path::new("run/state"),
            batches: 8,
        })
        .unwrap();
    files.event(&Event::Warning("the disk is nearly full")).unwrap();
    let log = read(folder.path(), TRAIN_LOG);
    for line in [
        "training starts: 12 batches, 6 gradient steps",
        "batch 1 of 12, epoch 0  8.0000 bits per byte  loss 5.5452 nats  rate 1.000e-4  64 bytes/s",
        "gradient norm 4.0000 clipped to 1.0000",
        "validation after batch 4 of 12  2.0000 bits per byte  loss 1.3863 nats  7 samples in 1.5 s, the best so far",
        "test  0.6667 bits per byte",
        "training is done: 12 batches",
        "1_000 parameters\n    on the CPU\n",
        "state after batch 8 saved: run/state",
        "warning: the disk is nearly full",
    ] {
        assert!(log.contains(line), "{line}: {log}");
    }
}

#[test]
fn a_resumed_run_has_the_rows_of_one_that_was_never_killed() {
    let whole = content(uninterrupted().0.path());
    for (saved, killed) in [(1, 1), (4, 6), (5, 11), (8, 9), (0, 3)] {
        let folder = tempfile::tempdir().unwrap();
        let mut files = RunFiles::create(folder.path(), RunFilesOptions::default()).unwrap();
        run(&mut files, 0, saved);
        let lengths = files.flush().unwrap();
        assert_eq!(lengths.len(), 3, "{lengths:?}");
        run(&mut files, saved, killed);
        drop(files);
        // killed while a row was written
        for name in lengths.keys().map(String::as_str).chain([TRAIN_LOG]) {
            let path = folder.path().join(name);
            let mut torn = std::fs::read(&path).unwrap();
            torn.extend(b"0,2026-11-");
            std::fs::write(&path, torn).unwrap();
        }
        let log = read(folder.path(), TRAIN_LOG);
        let mut files = RunFiles::resume(folder.path(), &lengths, RunFilesOptions::default()).unwrap();
        run(&mut files, saved, BATCHES);
        assert_eq!(
            content(folder.path()),
            whole,
            "state after {saved}, killed after {killed}"
        );
        let resumed = read(folder.path(), TRAIN_LOG);
        assert!(
            resumed.starts_with(log.strip_suffix("0,2026-11-").unwrap()),
            "{resumed}"
        );
        let expected = format!("training continues after batch {saved} of 12");
        assert!(saved == 0 || resumed.contains(&expected), "{resumed}");
        assert!(resumed.lines().all(|line| line.starts_with("20")), "{resumed}");
    }
}

#[test]
fn files_that_the_state_does_not_know_begin_anew_and_lost_ones_end_no_run() {
    let whole = content(uninterrupted().0.path());
    let (folder, mut files) = uninterrupted();
    drop(files);
    files = RunFiles::resume(folder.path(), &FileLengths::new(), RunFilesOptions::default()).unwrap();
    assert_eq!(read(folder.path(), LOSS_FILE), loss_csv::HEADER);
    assert!(scalars(folder.path()).is_empty());
    run(&mut files, 0, BATCHES);
    assert_eq!(content(folder.path()), whole);

    // missing, and truncated in the middle of a row
    let lengths = files.flush().unwrap();
    std::fs::remove_file(folder.path().join(TIMEMEM_FILE)).unwrap();
    let losses = read(folder.path(), LOSS_FILE);
    std::fs::write(folder.path().join(LOSS_FILE), &losses[..losses.len() - 20]).unwrap();
    files = RunFiles::resume(folder.path(), &lengths, RunFilesOptions::default()).unwrap();
    assert_eq!(read(folder.path(), TIMEMEM_FILE), timemem_csv::HEADER);
    let end = losses.trim_end().rfind('\n').unwrap() + 1;
    assert_eq!(read(folder.path(), LOSS_FILE), losses[..end]);
    let kept = scalars(folder.path());
    assert_eq!(kept, whole.2);
    assert_eq!(files.flush().unwrap()[TIMEMEM_FILE], timemem_csv::HEADER.len() as u64);
}

#[test]
fn a_new_run_in_an_old_folder_keeps_the_history() {
    let (folder, _) = uninterrupted();
    let log = read(folder.path(), TRAIN_LOG);
    RunFiles::create(folder.path(), RunFilesOptions::default()).unwrap();
    assert_eq!(read(folder.path(), LOSS_FILE), loss_csv::HEADER);
    assert_eq!(read(folder.path(), TRAIN_LOG), log);
    let names = std::fs::read_dir(folder.path()).unwrap();
    assert_eq!(names.count(), 5, "two event files");
}

#[test]
fn other_workers_write_their_losses_alone_where_they_are_asked_to() {
    let folder = tempfile::tempdir().unwrap();
    for (rank, losses) in [(1, false), (2, true)] {
        let mut files = RunFiles::create(
            folder.path(),
            RunFilesOptions {
                rank,
                losses,
                ..RunFilesOptions::default()
            },
        )
        .unwrap();
        run(&mut files, 0, BATCHES);
        assert_eq!(files.flush().unwrap().len(), usize::from(losses));
    }
    let names: Vec<_> = std::fs::read_dir(folder.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert_eq!(names, ["loss_rank2.csv"]);
    assert_eq!(
        read_losses(&folder.path().join("loss_rank2.csv")).unwrap().rows[0].rank,
        2
    );

    let folder = tempfile::tempdir().unwrap();
    RunFiles::create(
        folder.path(),
        RunFilesOptions {
            losses: false,
            ..RunFilesOptions::default()
        },
    )
    .unwrap();
    assert!(!folder.path().join(LOSS_FILE).exists() && folder.path().join(TIMEMEM_FILE).exists());
}

#[test]
fn folders_that_cannot_be_written_are_an_error_at_the_start() {
    let folder = tempfile::tempdir().unwrap();
    let error = RunFiles::create(&folder.path().join("missing"), RunFilesOptions::default())
        .err()
        .unwrap();
    assert!(error.to_string().contains("loss.csv: cannot open"), "{error}");
}

#[test]
fn a_full_disk_ends_no_run_and_loses_no_row() {
    let whole = content(uninterrupted().0.path());
    for room in (0..1500).step_by(97) {
        let folder = tempfile::tempdir().unwrap();
        let mut files = RunFiles::create(folder.path(), RunFilesOptions::default()).unwrap();
        let disk = Disk::with_room(room);
        files.all().for_each(|file| file.wrap(|storage| disk.under(storage)));
        run(&mut files, 0, BATCHES);
        let error = files.flush().unwrap_err().to_string();
        assert!(error.contains("cannot append to the file"), "{error}");
        for name in [LOSS_FILE, TIMEMEM_FILE, TRAIN_LOG] {
            let text = read(folder.path(), name);
            assert!(text.is_empty() || text.ends_with('\n'), "{name}: {text}");
        }
        disk.room.store(u64::MAX, Ordering::Relaxed);
        disk.healthy.store(false, Ordering::Relaxed);
        assert!(files.flush().is_err(), "a disk that cannot sync");
        disk.healthy.store(true, Ordering::Relaxed);
        let lengths = files.flush().unwrap();
        assert_eq!(content(folder.path()), whole);
        for (name, length) in &lengths {
            assert_eq!(folder.path().join(name).metadata().unwrap().len(), *length);
        }
    }
}
