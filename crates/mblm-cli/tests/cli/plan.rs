//! `mblm plan`, and runs that follow it.

use crate::support::{Scratch, done, fails, root, str};

#[test]
fn a_plan_fits_into_the_memory_that_is_given() {
    let recipe = root().join("configs/long-context.yaml");
    let plan = |memory: &str, more: &[&str]| {
        let args = ["plan", str(&recipe), "--json", "--memory", memory];
        done(&[&args[..], more].concat()).json()
    };
    for (memory, bytes) in [("1GiB", 1u64 << 30), ("1.5GiB", 3 << 29), ("64GiB", 64 << 30)] {
        let json = plan(memory, &[]);
        assert_eq!(json["limit_bytes"], bytes);
        assert!(json["memory_bytes"].as_u64().unwrap() <= bytes, "{json}");
        assert_eq!(json["first_stage_portion"].is_null(), memory == "64GiB", "{json}");
        let sum: u64 = (json["consumers"].as_array().unwrap().iter())
            .map(|consumer| consumer["bytes"].as_u64().unwrap())
            .sum();
        assert_eq!(json["memory_bytes"], sum);
        let longest = json["longest_context"].as_u64().unwrap();
        assert!(longest >= 1 << 20, "{json}");
        let longer = format!("params.input_seq_len={}", longest + 128);
        let target = format!("train.target_elements={}", longest + 128);
        let args = [
            "plan",
            str(&recipe),
            "--memory",
            memory,
            "--set",
            &longer,
            "--set",
            &target,
        ];
        fails(&args, 2, &["a training step needs", "--memory"]);
    }
    let (here, there) = (plan("8GiB", &[]), plan("8GiB", &["--gpu"]));
    assert!(here["seconds_per_batch"].is_number() && there["seconds_per_batch"].is_null());
    assert_ne!(here["memory_bytes"], there["memory_bytes"]);
}

#[test]
fn people_get_the_peak_by_consumer() {
    let recipe = root().join("configs/long-context.yaml");
    let finished = done(&["plan", str(&recipe)]);
    for part in [
        "bytes of memory per byte of context",
        "activations of stage 1",
        "chunks of",
        "longest context",
    ] {
        assert!(finished.text().contains(part), "{part}: {finished:?}");
    }
    fails(&["plan", str(&recipe), "--gpu"], 2, &["--memory"]);
    fails(&["plan", str(&recipe), "--memory", "much"], 2, &["--memory", "much"]);
}

/// A run in chunks gives the same result as a run that computes its samples at once.
#[test]
fn a_run_in_chunks_learns_the_same() {
    let scratch = Scratch::new();
    let text = std::fs::read(scratch.data()).unwrap().repeat(20);
    let text = scratch.file("long.txt", text);
    let run = |memory: &str| {
        let sizes = [
            "params.seq_lens=[512, 4]",
            "params.input_seq_len=2048",
            "params.hidden_dims=[32, 32]",
            "params.num_layers=[2, 1]",
            "train.target_elements=8192",
            "train.batch_size=2",
            "io.validate_amount=1",
            "train.seed=1",
        ];
        let config = root().join("configs/mamba2-transformer.yaml");
        let data = format!("io.dataset_dir={}", str(&text));
        let out = scratch.path(memory);
        let mut args = vec![
            "train",
            str(&config),
            "--json",
            "--sample-bytes",
            "0",
            "--memory",
            memory,
            "--out",
            str(&out),
        ];
        for set in sizes.into_iter().chain([data.as_str(), "io.dataset_args=null"]) {
            args.extend(["--set", set]);
        }
        done(&args).json()
    };
    let (whole, cut) = (run("1GiB"), run("9MiB"));
    let bits = |json: &serde_json::Value| json["training_bits_per_byte"].as_f64().unwrap();
    assert!((bits(&whole) - bits(&cut)).abs() < 1e-3, "{whole} {cut}");
}
