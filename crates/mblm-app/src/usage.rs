//! Wrong usage that only the files and values named on the command line reveal; the program ends with exit code 2.

/// A mistake in the arguments that only the files they name reveal.
#[derive(Debug)]
pub struct Usage(pub String);

impl std::fmt::Display for Usage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Usage {}
