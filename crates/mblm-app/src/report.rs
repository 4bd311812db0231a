//! Prints the error that ends the program, and returns its exit code.

use std::error::Error;

use crate::output;
use crate::usage::Usage;

/// Removes the backtrace that the tensor library appends to an error if `RUST_BACKTRACE` is set.
fn without_backtrace(text: &str) -> String {
    let is_frame = |line: &&str| {
        let line = line.trim_start();
        let digits = line.trim_start_matches(|digit: char| digit.is_ascii_digit());
        digits.len() < line.len() && digits.starts_with(": ")
    };
    let lines: Vec<&str> = text.lines().take_while(|line| !is_frame(line)).collect();
    lines.join("\n").trim_end().to_string()
}

/// Prints an error and returns its exit code.
pub(crate) fn report(error: &anyhow::Error) -> u8 {
    // a closed pipe: the reader of our output has ended, which is no error
    let gone = |cause: &(dyn Error + 'static)| {
        cause
            .downcast_ref::<std::io::Error>()
            .is_some_and(|error| error.kind() == std::io::ErrorKind::BrokenPipe)
    };
    if error.chain().any(gone) {
        return 0;
    }
    output::note(&format!("error: {}", without_backtrace(&format!("{error:#}"))));
    let full = |cause: &(dyn Error + 'static)| {
        matches!(cause.downcast_ref(), Some(mblm::Error::Tensor(error)) if mblm::device::is_out_of_memory(error))
            || cause.downcast_ref().is_some_and(mblm::device::is_out_of_memory)
    };
    if error.chain().any(full) {
        output::note(
            "the device is out of memory: lower --batch-size, --context or --num-samples, look with nvidia-smi for other \
             programs that use it, or compute with --device cpu",
        );
    }
    match error.downcast_ref::<mblm::Error>() {
        Some(mblm::Error::Config(_)) => 2,
        Some(mblm::Error::NotFinite { .. } | mblm::Error::NoNumbers { .. }) => 3,
        _ if error.is::<Usage>() => 2,
        _ => 1,
    }
}
