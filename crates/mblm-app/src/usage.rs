//! Usage errors that are found only after the arguments are parsed; the program ends with exit code
//! 2.

/// A mistake in the arguments that is found only by reading the files and values that they name.
#[derive(Debug)]
pub struct Usage(pub String);

impl std::fmt::Display for Usage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Usage {}
