//! A file far larger than memory trains in constant memory: the test has a process of its own to
//! measure.

#![cfg(target_os = "linux")]

use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::time::{Duration, Instant};

use mblm::data::{DatasetArgs, Loader, LoaderOptions, Order, Position, Split};
use mblm::task::TaskRegistry;

/// The largest resident set that this process ever had, in bytes.
fn peak_resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux has it");
    let line = status
        .lines()
        .find(|line| line.starts_with("VmHWM:"))
        .expect("Linux has it");
    let kilobytes: u64 = line
        .split_whitespace()
        .nth(1)
        .and_then(|n| n.parse().ok())
        .expect("a number");
    kilobytes * 1024
}

#[test]
fn a_sparse_file_of_20_gb_opens_at_once_and_needs_little_memory() {
    const SIZE: u64 = 20_000_000_000;
    const SAMPLE: usize = 100_000;
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("sparse");
    let mut file = File::create(&path).expect("a temporary file");
    file.set_len(SIZE).expect("a sparse file");
    // the first byte of the last training sample: 95 % of the bytes are 190,000 samples
    file.seek(SeekFrom::Start(189_999 * SAMPLE as u64))
        .expect("within the file");
    file.write_all(&[42]).expect("one byte");
    drop(file);

    let started = Instant::now();
    let args = DatasetArgs::new(&path, Split::Train, SAMPLE);
    let set = TaskRegistry::default()
        .open("bytes", &args)
        .expect("it opens")
        .expect("it has this split");
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
    assert_eq!((set.bytes(), set.len(0)), (19_000_000_000, 190_000));
    assert_eq!(set.sample(189_999, 0).expect("the last sample").ids[0], 42);

    let options = LoaderOptions::training(8, Order::Shuffled { seed: 1 }, Position::default());
    let loader = Loader::new(set, options).expect("it starts");
    let read: usize = loader.take(400).map(|batch| batch.expect("a batch").ids.len()).sum();
    assert_eq!(read, 400 * 8 * SAMPLE);
    assert!(peak_resident() < 100 << 20, "{} bytes resident", peak_resident());
}
