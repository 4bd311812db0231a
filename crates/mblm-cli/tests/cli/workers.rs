//! Runs of several workers: they equal the published package's own runs under torchrun, and resume.
//!
//! `fixtures/ddp` holds runs of the package (0.4.2, float32, CPU) with one and two workers.

use std::path::Path;

use crate::support::{Scratch, done, fails, finish, fixture, mblm, str};

/// A row of a loss file: the columns that do not depend on time.
#[derive(Debug)]
struct Row {
    worker: usize,
    elements: u64,
    kind: String,
    /// Epoch, batch, cumulative batch.
    batch: [u64; 3],
    loss: f64,
    lr: f64,
}

fn rows(path: &Path) -> Vec<Row> {
    let text = std::fs::read_to_string(path).unwrap();
    let row = |line: &str| {
        let cells: Vec<&str> = line.split(',').collect();
        let number = |cell: usize| cells[cell].parse::<u64>().unwrap();
        Row {
            worker: number(0) as usize,
            elements: number(2),
            kind: cells[3].into(),
            batch: [number(4), number(5), number(6)],
            loss: cells[7].parse().unwrap(),
            lr: cells[8].parse().unwrap(),
        }
    };
    // rows of test data have -1 for all but the loss
    let rows = text.lines().skip(1).filter(|line| !line.contains(",test,"));
    rows.map(row).collect()
}

/// Runs the package's configuration in a folder with its data; returns the folder of the run.
fn package_run(workers: &str) -> (tempfile::TempDir, std::path::PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    for entry in walkdir::WalkDir::new(fixture("ddp")) {
        let entry = entry.unwrap();
        let to = folder.path().join(entry.path().strip_prefix(fixture("ddp")).unwrap());
        match entry.file_type().is_dir() {
            true => std::fs::create_dir_all(&to).unwrap(),
            false => std::fs::write(&to, std::fs::read(entry.path()).unwrap()).unwrap(),
        }
    }
    let args = ["train", "run.yaml", "--sample-bytes", "0", "--workers", workers];
    let finished = finish(mblm(args).current_dir(folder.path()));
    assert_eq!(finished.code, 0, "{}", finished.stderr);
    let run = std::fs::read_dir(folder.path().join("out")).unwrap().next().unwrap();
    let run = run.unwrap().path();
    (folder, run)
}

#[test]
fn a_run_of_several_workers_is_the_packages_run_row_by_row() {
    for workers in [1, 2] {
        let (_folder, run) = package_run(&workers.to_string());
        let theirs = rows(&fixture(&format!("ddp/loss_w{workers}.csv")));
        let mut compared = 0;
        for worker in 0..workers {
            let name = match worker {
                0 => "loss.csv".to_string(),
                worker => format!("loss_rank{worker}.csv"),
            };
            let ours = rows(&run.join(name));
            for kind in ["train", "valid"] {
                let of = |rows: &[Row]| -> Vec<(u64, [u64; 3], f64, f64)> {
                    let of_kind = rows.iter().filter(|row| row.worker == worker && row.kind == kind);
                    of_kind.map(|row| (row.elements, row.batch, row.loss, row.lr)).collect()
                };
                let (ours, theirs) = (of(&ours), of(&theirs));
                assert_eq!(ours.len(), theirs.len(), "{kind} rows of worker {worker} of {workers}");
                for (ours, theirs) in ours.iter().zip(&theirs) {
                    assert_eq!((ours.0, ours.1), (theirs.0, theirs.1));
                    assert!((ours.2 - theirs.2).abs() < 3e-4, "{ours:?} {theirs:?}");
                    assert!((ours.3 - theirs.3).abs() < 1e-9, "{ours:?} {theirs:?}");
                    compared += 1;
                }
            }
        }
        assert!(compared > 100, "{compared}");
    }
}

#[test]
fn workers_are_kept_by_the_run() {
    let scratch = Scratch::new();
    let args = ["train", str(scratch.config()), "--sample-bytes", "0", "--workers", "3"];
    done(&args);
    let run = scratch.run_folders().remove(0);
    let resume = ["train", "--resume", str(&run), "--sample-bytes", "0", "--set"];
    let longer = "train.target_elements=7680";
    fails(
        &[&resume[..], &[longer, "--workers", "2"]].concat(),
        2,
        &["train.workers is 2", "expected 3"],
    );
    let on = done(&[&resume[..], &[longer]].concat());
    assert!(on.stderr.contains("going on from"), "{}", on.stderr);
    // 7680 elements, 3 workers, 4 × 32 bytes a batch
    assert!(on.stderr.contains("batch 20/20"), "{}", on.stderr);
    fails(&[&args[..5], &["0"]].concat(), 2, &["train.workers", "at least 1"]);
    fails(
        &[&args[..5], &["1000"]].concat(),
        1,
        &["for each of 1000 workers", "give more data"],
    );
}

#[test]
fn a_launcher_is_told_what_the_program_has() {
    let scratch = Scratch::new();
    let args = ["train", str(scratch.config()), "--sample-bytes", "0"];
    for (variables, code, part) in [
        (&[("RANK", "1")][..], 2, "RANK is set, but WORLD_SIZE is not"),
        (&[("RANK", "1"), ("WORLD_SIZE", "2")], 2, "rank 1 of 2"),
        (&[("RANK", "0"), ("WORLD_SIZE", "1")], 0, "done after 30 batches"),
    ] {
        let finished = finish(mblm(args).envs(variables.iter().copied()));
        assert_eq!(finished.code, code, "{finished:?}");
        assert!(finished.stderr.contains(part), "{finished:?}");
    }
}
