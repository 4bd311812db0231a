//! The linear layer at the shapes of training and of decoding: `cargo bench -p mblm-ops --bench
//! linear`.
//!
//! Decoding reads as many weights as a small model has, more than a core's own cache holds, and is
//! reported in bytes of weights a second; training in multiplications and additions.

use candle_core::{DType, Device, Result, Tensor};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use mblm_ops::GradBuffer;
use mblm_ops::cpu::on_workers;
use mblm_ops::linear::{self, Products};
use mblm_ops::testing::uniform;

/// Inputs and outputs of the layers of a block of width 256.
const LAYERS: [(usize, usize); 3] = [(256, 768), (256, 1024), (1024, 256)];

fn random(shape: &[usize], seed: u64) -> Result<Tensor> {
    uniform(shape, seed)?.to_dtype(DType::F32)?.to_device(&Device::Cpu)
}

/// From packed weights of `f32`, as they are and rounded to bfloat16 numbers.
fn decode(criterion: &mut Criterion) -> Result<()> {
    let mut group = criterion.benchmark_group("linear, few rows");
    for (inputs, outputs) in LAYERS {
        for (name, stored, size) in [("float32", DType::F32, 4), ("bfloat16", DType::BF16, 2)] {
            let layers = (0..12).map(|seed| {
                let weight = random(&[outputs, inputs], seed)?
                    .to_dtype(stored)?
                    .to_dtype(DType::F32)?;
                let packed = linear::pack(&weight)?.expect("the CPU has a packed form");
                Ok((weight, packed, random(&[outputs], seed + 100)?))
            });
            let layers: Vec<_> = layers.collect::<Result<_>>()?;
            for rows in [1, 8] {
                let x = random(&[rows, inputs], 200)?;
                group.throughput(Throughput::Bytes((layers.len() * inputs * outputs * size) as u64));
                let id = format!("{name}, {rows} of {inputs}, {outputs} outputs");
                group.bench_function(BenchmarkId::from_parameter(id), |bencher| {
                    on_workers(|| {
                        bencher.iter(|| {
                            for (weight, packed, bias) in &layers {
                                linear::forward_packed(&x, weight, packed, Some(bias)).expect("sizes fit");
                            }
                        });
                    });
                });
            }
        }
    }
    group.finish();
    Ok(())
}

fn train(criterion: &mut Criterion) -> Result<()> {
    let mut group = criterion.benchmark_group("linear, 4096 rows");
    for (inputs, outputs) in LAYERS {
        let (weight, bias) = (random(&[outputs, inputs], 1)?, random(&[outputs], 2)?);
        let (x, dy) = (random(&[4096, inputs], 3)?, random(&[4096, outputs], 4)?);
        let products = 2 * 4096 * inputs * outputs;
        group.throughput(Throughput::Elements(products as u64));
        let shape = format!("{inputs} inputs, {outputs} outputs");
        group.bench_function(BenchmarkId::new("forward", &shape), |bencher| {
            bencher.iter(|| linear::forward(&x, &weight, Some(&bias)).expect("sizes fit"));
        });
        group.bench_function(BenchmarkId::new("forward, bfloat16", &shape), |bencher| {
            bencher.iter(|| linear::forward_with(Products::Bf16, &x, &weight, Some(&bias)).expect("sizes fit"));
        });
        let (mut d_weight, mut d_bias) = (GradBuffer::zeros_like(&weight)?, GradBuffer::zeros_like(&bias)?);
        group.throughput(Throughput::Elements(2 * products as u64));
        group.bench_function(BenchmarkId::new("backward, bfloat16", &shape), |bencher| {
            bencher.iter(|| {
                linear::backward_with(Products::Bf16, &x, &weight, &dy, &mut d_weight, Some(&mut d_bias))
                    .expect("sizes fit")
            });
        });
        group.bench_function(BenchmarkId::new("backward", &shape), |bencher| {
            bencher.iter(|| linear::backward(&x, &weight, &dy, &mut d_weight, Some(&mut d_bias)).expect("sizes fit"));
        });
    }
    group.finish();
    Ok(())
}

fn benches(criterion: &mut Criterion) {
    decode(criterion).expect("sizes fit");
    train(criterion).expect("sizes fit");
}

criterion_group! {
    name = linears;
    config = Criterion::default().sample_size(10);
    targets = benches
}
criterion_main!(linears);
