//! What passes over rows a few times and multiplies no matrices, forward and backward: `cargo bench
//! -p mblm-ops --bench rows`.
//!
//! These are bound by memory: the reported bytes a second are those of the tensors that have to be
//! read and written once, to be compared with what the machine copies.

use candle_core::{DType, Device, Result, Tensor};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use mblm_ops::adam::{self, Adam, Parameter};
use mblm_ops::add_norm::{self, Norm};
use mblm_ops::testing::uniform;
use mblm_ops::{GradBuffer, cross_entropy, embedding, gated_norm, gelu, layer_norm, rope};

/// Rows of a group of the training pass, in sequences of [`POSITIONS`].
const ROWS: usize = 4096;
const POSITIONS: usize = 8;
/// The width of a small model, and of its feed-forward part.
const WIDTH: usize = 256;
const INNER: usize = 1024;
const VOCABULARY: usize = 257;

fn random(shape: &[usize], seed: u64) -> Result<Tensor> {
    uniform(shape, seed)?.to_dtype(DType::F32)
}

/// Rows (n, t, d).
fn rows(width: usize, seed: u64) -> Result<Tensor> {
    random(&[ROWS / POSITIONS, POSITIONS, width], seed)
}

/// `tensors` of (ROWS, width) in `f32`.
fn traffic(tensors: usize, width: usize) -> Throughput {
    Throughput::Bytes((tensors * ROWS * width * 4) as u64)
}

fn gelu_benches(criterion: &mut Criterion) -> Result<()> {
    let (x, dy, bias) = (rows(INNER, 1)?, rows(INNER, 2)?, random(&[INNER], 3)?);
    let mut d_bias = GradBuffer::zeros_like(&bias)?;
    let mut group = criterion.benchmark_group("gelu");
    group.throughput(traffic(2, INNER));
    group.bench_function("forward", |bencher| bencher.iter(|| gelu::forward(&x, Some(&bias))));
    group.throughput(traffic(3, INNER));
    group.bench_function("backward", |bencher| {
        bencher.iter(|| gelu::backward(&x, Some(&bias), &dy, Some(&mut d_bias)));
    });
    group.finish();
    Ok(())
}

fn norm_benches(criterion: &mut Criterion) -> Result<()> {
    let (x, delta, d_out) = (rows(WIDTH, 1)?, rows(WIDTH, 2)?, rows(WIDTH, 3)?);
    let (gain, bias) = (random(&[WIDTH], 4)?, random(&[WIDTH], 5)?);
    let previous = Tensor::zeros((1, 1, WIDTH), DType::F32, &Device::Cpu)?;
    let mut d_gain = GradBuffer::zeros_like(&gain)?;
    let mut d_bias = GradBuffer::zeros_like(&bias)?;

    let norm = Norm::Clamped;
    let mut group = criterion.benchmark_group("add_norm");
    group.throughput(traffic(4, WIDTH));
    group.bench_function("forward", |bencher| {
        bencher.iter(|| add_norm::forward(&x, Some(&delta), &gain, norm, Some(&previous)));
    });
    let found = add_norm::forward(&x, Some(&delta), &gain, norm, Some(&previous))?;
    group.bench_function("backward", |bencher| {
        bencher.iter(|| {
            add_norm::backward(
                &found.residual,
                &gain,
                norm,
                Some(&previous),
                &found.saved,
                &d_out,
                Some(&delta),
                None,
                &mut d_gain,
            )
        });
    });
    group.finish();

    let mut group = criterion.benchmark_group("layer_norm");
    group.throughput(traffic(2, WIDTH));
    group.bench_function("forward", |bencher| {
        bencher.iter(|| layer_norm::forward(&x, &gain, &bias))
    });
    let (_, saved) = layer_norm::forward(&x, &gain, &bias)?;
    group.throughput(traffic(3, WIDTH));
    group.bench_function("backward", |bencher| {
        bencher.iter(|| layer_norm::backward(&x, &gain, &saved, &d_out, &mut d_gain, &mut d_bias));
    });
    group.finish();

    let mut group = criterion.benchmark_group("gated_norm");
    group.throughput(traffic(3, WIDTH));
    group.bench_function("forward", |bencher| {
        bencher.iter(|| gated_norm::forward(&x, &delta, &gain))
    });
    let (_, saved) = gated_norm::forward(&x, &delta, &gain)?;
    group.throughput(traffic(5, WIDTH));
    group.bench_function("backward", |bencher| {
        bencher.iter(|| gated_norm::backward(&x, &delta, &gain, &saved, &d_out, &mut d_gain));
    });
    group.finish();

    let mut group = criterion.benchmark_group("rope");
    group.throughput(traffic(2, WIDTH));
    group.bench_function("forward", |bencher| bencher.iter(|| rope::forward(&x, 0)));
    group.finish();
    Ok(())
}

fn vocabulary_benches(criterion: &mut Criterion) -> Result<()> {
    let ids = uniform(&[ROWS], 1)?.affine(0.5, 0.5)?.clamp(0.0, 0.999)?;
    let ids = ids.affine(VOCABULARY as f64, 0.0)?.floor()?.to_dtype(DType::U32)?;
    let (logits, weights) = (
        random(&[ROWS, VOCABULARY], 2)?,
        Tensor::ones(ROWS, DType::F32, &Device::Cpu)?,
    );
    let mut group = criterion.benchmark_group("cross_entropy");
    group.throughput(traffic(2, VOCABULARY));
    group.bench_function("loss and gradient", |bencher| {
        bencher.iter(|| cross_entropy::loss_and_gradient(&logits, &ids, &weights, 1.0));
    });
    group.throughput(traffic(1, VOCABULARY));
    group.bench_function("losses", |bencher| {
        bencher.iter(|| cross_entropy::losses(&logits, &ids))
    });
    group.finish();

    let (table, dy) = (random(&[VOCABULARY, WIDTH], 3)?, random(&[ROWS, WIDTH], 4)?);
    let mut d_table = GradBuffer::zeros_like(&table)?;
    let mut group = criterion.benchmark_group("embedding");
    group.throughput(traffic(1, WIDTH));
    group.bench_function("forward", |bencher| {
        bencher.iter(|| embedding::forward(&ids, &table, DType::F32))
    });
    group.bench_function("backward", |bencher| {
        bencher.iter(|| embedding::backward(&ids, &dy, &mut d_table, None));
    });
    group.finish();
    Ok(())
}

/// All weights of a small model: a few large tensors, and many small ones.
fn adam_benches(criterion: &mut Criterion) -> Result<()> {
    let constants = Adam {
        beta1: 0.9,
        beta2: 0.95,
        eps: 1e-8,
        weight_decay: 0.0,
    };
    let mut group = criterion.benchmark_group("adam");
    for (count, len) in [(20, 1 << 18), (2000, 1 << 8)] {
        let of = |seed: u64| -> Result<Vec<Tensor>> { (0..count).map(|index| random(&[len], seed + index)).collect() };
        let (values, m, ones) = (of(0)?, of(5000)?, Tensor::ones(len, DType::F32, &Device::Cpu)?);
        let v: Vec<Tensor> = (0..count).map(|_| ones.copy()).collect::<Result<_>>()?;
        let gradients: Vec<GradBuffer> = values
            .iter()
            .map(|value| {
                let mut gradient = GradBuffer::zeros_like(value)?;
                gradient.add(&random(&[len], 9)?)?;
                Ok(gradient)
            })
            .collect::<Result<_>>()?;
        let mut parameters: Vec<Parameter<'_>> = (0..values.len())
            .map(|index| Parameter {
                value: &values[index],
                gradient: &gradients[index],
                m: &m[index],
                v: &v[index],
            })
            .collect();
        let size = format!("{count} of {len}");
        group.throughput(Throughput::Bytes(7 * 4 * count * len as u64));
        group.bench_function(BenchmarkId::new("step", &size), |bencher| {
            bencher.iter(|| adam::step(&constants, 1e-9, 1, 1.0, &mut parameters));
        });
        let buffers: Vec<&GradBuffer> = gradients.iter().collect();
        group.throughput(Throughput::Bytes(4 * count * len as u64));
        group.bench_function(BenchmarkId::new("sums", &size), |bencher| {
            bencher.iter(|| adam::sums(&buffers))
        });
    }
    group.finish();
    Ok(())
}

fn benches(criterion: &mut Criterion) {
    gelu_benches(criterion).expect("sizes fit");
    norm_benches(criterion).expect("sizes fit");
    vocabulary_benches(criterion).expect("sizes fit");
    adam_benches(criterion).expect("sizes fit");
}

criterion_group! {
    name = over_rows;
    config = Criterion::default().sample_size(10);
    targets = benches
}
criterion_main!(over_rows);
