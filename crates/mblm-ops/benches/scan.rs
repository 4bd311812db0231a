//! The scans and the convolution before them, forward and backward, in positions a second:
//! `cargo bench -p mblm-ops --bench scan`.

use candle_core::{DType, Result, Tensor};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use mblm_ops::testing::uniform;
use mblm_ops::{GradBuffer, conv_silu, selective_scan, ssd};

/// Sequences and positions: a global stage, a local one of short patches, a decode step.
const SIZES: [(usize, usize); 3] = [(2, 256), (512, 8), (1, 1)];

/// d_inner of the scans.
const CHANNELS: usize = 512;

fn random(shape: &[usize], seed: u64) -> Result<Tensor> {
    uniform(shape, seed)?.to_dtype(DType::F32)
}

fn ssd_benches(criterion: &mut Criterion) -> Result<()> {
    let s = ssd::Ssd {
        heads: 8,
        head_dim: CHANNELS / 8,
        state: 64,
        chunk: 64,
    };
    let (a_log, d, dt_bias) = (random(&[8], 1)?, random(&[8], 2)?, random(&[8], 3)?);
    let mut group = criterion.benchmark_group("ssd");
    for (n, t) in SIZES {
        let (xbc, dt) = (random(&[n, t, CHANNELS + 2 * s.state], 4)?, random(&[n, t, 8], 5)?);
        let initial = random(&[1, 8, s.head_dim, s.state], 6)?;
        let dy = random(&[n, t, CHANNELS], 7)?;
        let inputs = ssd::Inputs {
            xbc: &xbc,
            dt: &dt,
            a_log: &a_log,
            d: &d,
            dt_bias: &dt_bias,
            initial: Some(&initial),
        };
        let size = format!("{n}x{t}");
        group.throughput(Throughput::Elements((n * t) as u64));
        group.bench_function(BenchmarkId::new("forward", &size), |bencher| {
            bencher.iter(|| ssd::forward(&s, &inputs).expect("sizes fit"));
        });
        let mut grads = [(); 3].map(|()| GradBuffer::zeros_like(&a_log).expect("on the CPU"));
        group.bench_function(BenchmarkId::new("forward and backward", &size), |bencher| {
            bencher.iter(|| {
                let saved = ssd::forward(&s, &inputs)?.saved;
                let [a_log, d, dt_bias] = &mut grads;
                ssd::backward(
                    &s,
                    &inputs,
                    saved,
                    &dy,
                    None,
                    ssd::ParameterGradients { a_log, d, dt_bias },
                )
            });
        });
    }
    group.finish();
    Ok(())
}

fn selective_scan_benches(criterion: &mut Criterion) -> Result<()> {
    const STATE: usize = 16;
    let (a_log, d) = (random(&[CHANNELS, STATE], 1)?, random(&[CHANNELS], 2)?);
    let mut group = criterion.benchmark_group("selective_scan");
    for (n, t) in SIZES {
        let channels = |seed| random(&[n, t, CHANNELS], seed);
        let (u, delta, z, dy) = (channels(3)?, channels(4)?, channels(5)?, channels(6)?);
        let (b, c) = (random(&[n, t, STATE], 7)?, random(&[n, t, STATE], 8)?);
        let initial = random(&[1, CHANNELS, STATE], 9)?;
        let inputs = selective_scan::Inputs {
            u: &u,
            delta: &delta,
            a_log: &a_log,
            b: &b,
            c: &c,
            d: &d,
            z: &z,
            initial: Some(&initial),
        };
        let size = format!("{n}x{t}");
        group.throughput(Throughput::Elements((n * t) as u64));
        group.bench_function(BenchmarkId::new("forward", &size), |bencher| {
            bencher.iter(|| selective_scan::forward(&inputs).expect("sizes fit"));
        });
        let (mut d_a_log, mut d_d) = (GradBuffer::zeros_like(&a_log)?, GradBuffer::zeros_like(&d)?);
        group.bench_function(BenchmarkId::new("forward and backward", &size), |bencher| {
            bencher.iter(|| {
                let saved = selective_scan::forward(&inputs)?.saved;
                selective_scan::backward(&inputs, saved, &dy, None, &mut d_a_log, &mut d_d)
            });
        });
    }
    group.finish();
    Ok(())
}

fn conv_silu_benches(criterion: &mut Criterion) -> Result<()> {
    let (weight, bias) = (random(&[CHANNELS, 1, 4], 1)?, random(&[CHANNELS], 2)?);
    let mut group = criterion.benchmark_group("conv_silu");
    for (n, t) in SIZES {
        let (x, dy) = (random(&[n, t, CHANNELS], 3)?, random(&[n, t, CHANNELS], 4)?);
        let tail = random(&[1, 3, CHANNELS], 5)?;
        let (mut d_weight, mut d_bias) = (GradBuffer::zeros_like(&weight)?, GradBuffer::zeros_like(&bias)?);
        group.throughput(Throughput::Elements((n * t) as u64));
        group.bench_function(
            BenchmarkId::new("forward and backward", format!("{n}x{t}")),
            |bencher| {
                bencher.iter(|| {
                    conv_silu::forward(&x, &weight, &bias, Some(&tail))?;
                    conv_silu::backward(&x, &weight, &bias, Some(&tail), &dy, None, &mut d_weight, &mut d_bias)
                });
            },
        );
    }
    group.finish();
    Ok(())
}

fn benches(criterion: &mut Criterion) {
    ssd_benches(criterion).expect("sizes fit");
    selective_scan_benches(criterion).expect("sizes fit");
    conv_silu_benches(criterion).expect("sizes fit");
}

criterion_group! {
    name = scan;
    config = Criterion::default().sample_size(10);
    targets = benches
}
criterion_main!(scan);
