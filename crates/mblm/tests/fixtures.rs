//! Every fixture within its bounds: values, all gradients, greedy bytes, training runs.

use std::path::Path;

use candle_core::Device;
use mblm::blocks::BlockRegistry;
use mblm::verify;

fn check(name: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name);
    let comparisons = verify::run(&path, &BlockRegistry::default(), &Device::Cpu).expect("the fixture runs");
    assert!(!comparisons.is_empty());
    for comparison in &comparisons {
        println!("{comparison:?}");
    }
    let failed: Vec<_> = comparisons.iter().filter(|comparison| !comparison.passes()).collect();
    assert!(failed.is_empty(), "{name}: {failed:#?}");
}

macro_rules! fixtures {
    ($($name:ident)*) => {$(
        #[test]
        fn $name() {
            check(concat!(stringify!($name), ".safetensors"));
        }
    )*};
}

fixtures! {
    decoder_1d_t
    decoder_2d_m1t
    decoder_2d_st
    decoder_2d_tt
    decoder_2d_tt_rope
    decoder_3d_stt
    encoder_2d_ee
    train_2d_st
}
