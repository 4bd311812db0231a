//! Fuzzes the `loss.csv` of a run, as `mblm plot` reads it.
#![no_main]

use mblm::train::outputs::read_losses;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("loss.csv");
    std::fs::write(&path, data).expect("a small file fits into the temporary folder");
    mblm_fuzz::limited(data.len(), || {
        if let Ok(log) = read_losses(&path) {
            let lines = data.iter().filter(|&&byte| byte == b'\n').count();
            assert!(log.rows.len() <= lines, "{} rows in {lines} lines", log.rows.len());
            assert!(log.rows.iter().all(|row| row.time.is_finite()), "a time is a time");
        }
    });
});
