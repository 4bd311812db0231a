//! The shared libraries that a program built with CUDA loads when it starts.

use serde::Serialize;

/// A library and where it comes from.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Library {
    /// The name without the version.
    pub(super) name: &'static str,
    /// The package that provides it.
    pub(super) package: &'static str,
    /// The file that the system's loader found, if any.
    pub(super) found: Option<&'static str>,
}

const TOOLKIT: &str = "the CUDA toolkit (its runtime libraries are enough; name their folder in LD_LIBRARY_PATH)";

/// Name, package, and file names with the versions that the program can be built against.
const LIBRARIES: [(&str, &str, &[&str]); 6] = [
    ("libcuda", "the NVIDIA driver", &["libcuda.so.1"]),
    ("libcudart", TOOLKIT, &["libcudart.so.13", "libcudart.so.12"]),
    ("libcublas", TOOLKIT, &["libcublas.so.13", "libcublas.so.12"]),
    ("libcublasLt", TOOLKIT, &["libcublasLt.so.13", "libcublasLt.so.12"]),
    ("libcurand", TOOLKIT, &["libcurand.so.10"]),
    ("libnvrtc", TOOLKIT, &["libnvrtc.so.13", "libnvrtc.so.12"]),
];

/// Looks up each library with the system's loader.
pub(super) fn look() -> Vec<Library> {
    LIBRARIES
        .iter()
        .map(|&(name, package, files)| Library {
            name,
            package,
            found: files.iter().copied().find(|file| loads(file)),
        })
        .collect()
}

fn loads(file: &str) -> bool {
    // SAFETY: these libraries' initialization has no preconditions; nothing is called in them.
    unsafe { libloading::Library::new(file) }.is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_library_is_looked_for() {
        assert_eq!(look().len(), LIBRARIES.len());
        assert!(!loads("libnone.so.99"));
    }
}
