//! Tests `mblm doctor`: its findings differ between machines, but it always checks the processor.

use crate::support::{done, fails};

#[test]
fn the_processor_is_checked_and_measured() {
    let json = done(&["doctor", "--device", "cpu", "--json"]).json();
    assert_eq!(json["passed"], true, "{json}");
    let devices = json["devices"].as_array().unwrap();
    assert_eq!(devices.len(), 1);
    let cpu = &devices[0];
    assert!(cpu["device"].as_str().unwrap().starts_with("cpu"), "{cpu}");
    assert_eq!((&cpu["failed"], &cpu["fixtures"]), (&serde_json::json!([]), &4.into()));
    for key in ["float32_product_flop_per_second", "copy_bytes_per_second"] {
        assert!(cpu[key]["median"].as_f64().unwrap() > 0.0, "{cpu}");
    }
    assert!(json["processor"]["threads"].as_u64().unwrap() > 0);
    assert_eq!(json["libraries"].as_array().unwrap().len(), 6);
}

#[test]
fn people_get_lines_with_units() {
    let finished = done(&["doctor"]);
    let text = finished.text();
    for part in [
        "mblm ",
        "processor",
        "instructions",
        "within bounds",
        "GFLOP/s",
        "copy, GB/s",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
}

#[test]
fn an_unknown_device_is_wrong_usage() {
    fails(
        &["doctor", "--device", "tpu"],
        2,
        &["--device: expected auto, cpu, cuda or cuda:N"],
    );
}
