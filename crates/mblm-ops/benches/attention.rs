//! Attention forward and backward, in multiplications and additions a second: `cargo bench -p
//! mblm-ops --bench attention`.
//!
//! Counted are 2 products of queries and keys forward and 4 backward (nothing for recomputation),
//! half of them when causal.

use candle_core::{DType, Result, Tensor};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use mblm_ops::attention::{self, Attention};
use mblm_ops::testing::uniform;

/// Sequences, queries, past rows, heads of a width of 256.
const SIZES: [(usize, usize, usize, usize); 9] = [
    (512, 8, 0, 4),
    (512, 8, 1, 4),
    (512, 8, 1, 16),
    (128, 32, 0, 4),
    (64, 64, 0, 4),
    (2, 256, 0, 4),
    (2, 2048, 0, 4),
    (1, 1, 4000, 4),
    (8, 1, 4000, 4),
];

fn random(shape: &[usize], seed: u64) -> Result<Tensor> {
    uniform(shape, seed)?.to_dtype(DType::F32)
}

fn forward_and_backward(criterion: &mut Criterion) -> Result<()> {
    let width = 256;
    for (n, t, s, heads) in SIZES {
        let a = Attention {
            heads,
            head_dim: width / heads,
            rotary: true,
            causal: true,
            dropout: None,
        };
        let (q, kv) = (random(&[n, t, width], 1)?, random(&[n, t, 2 * width], 2)?);
        // one past row is the shared start row
        let past = (s > 0).then(|| random(&[1, s, 2 * width], 3)).transpose()?;
        let d_out = random(&[n, t, width], 4)?;
        let pairs: usize = (0..t).map(|query| s + query + 1).sum();
        let product = 2 * n * pairs * width;
        let mut group = criterion.benchmark_group("attention");
        let name = format!("n={n},t={t},s={s},h={heads},dh={}", a.head_dim);
        group.throughput(Throughput::Elements(2 * product as u64));
        group.bench_function(BenchmarkId::new("forward", &name), |bencher| {
            bencher.iter(|| attention::forward(&a, &q, &kv, past.as_ref(), s, None));
        });
        group.throughput(Throughput::Elements(6 * product as u64));
        group.bench_function(BenchmarkId::new("forward+backward", &name), |bencher| {
            bencher.iter(|| {
                let output = attention::forward(&a, &q, &kv, past.as_ref(), s, None)?;
                attention::backward(&a, &q, &kv, past.as_ref(), s, None, output.saved, &d_out, None)
            });
        });
    }
    Ok(())
}

fn attention(criterion: &mut Criterion) {
    forward_and_backward(criterion).expect("sizes that fit each other");
}

criterion_group!(benches, attention);
criterion_main!(benches);
