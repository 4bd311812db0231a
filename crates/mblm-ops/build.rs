//! Compiles the CUDA kernels, `src/**/*.cu`, to PTX when the feature `cuda` is on; otherwise does
//! nothing.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    #[cfg(feature = "cuda")]
    kernels();
}

/// Writes one constant a file, `ptx.rs`, that holds the PTX text. The code runs on compute
/// capability 8.0 and newer: the driver finishes the compilation for the card that it finds.
#[cfg(feature = "cuda")]
fn kernels() {
    let out = std::path::PathBuf::from(std::env::var("OUT_DIR").expect("cargo sets OUT_DIR"));
    let built = cudaforge::KernelBuilder::new()
        .source_glob("src/**/*.cu")
        .watch(["src/cuda/common.cuh", "src/attention/cuda"])
        .include_path("src/cuda")
        .compute_cap(80)
        .args(["-std=c++17", "-O3", "--expt-relaxed-constexpr"])
        .build_ptx()
        .and_then(|built| built.write(out.join("ptx.rs")));
    if let Err(error) = built {
        eprintln!(
            "the CUDA kernels cannot be compiled: {error}\nThe feature `cuda` needs nvcc of the CUDA toolkit, 12.0 or newer."
        );
        std::process::exit(1);
    }
}
