//! Tests for CUDA only: steep scores in bfloat16, slices of larger tensors, and the time of calls.

use super::*;

/// Scores rise after the first keys until their powers leave the range of `f32`.
#[test]
fn steep_scores_on_cuda() -> Result<()> {
    let device = crate::cuda::device(0)?;
    let t = 250;
    for (head_dim, slope, causal) in [(16, 4.0, true), (64, 0.4, true), (64, 8.0, false), (128, 1.0, true)] {
        let mut a = case(1, t).heads(1, head_dim).plain().a;
        a.causal = causal;
        // the score of key j is about slope · j: all numbers are exact in bf16
        let first_channel = |numbers: Vec<f64>| -> Result<Tensor> {
            let first = Tensor::from_vec(numbers, (1, t, 1), &Device::Cpu)?;
            first.pad_with_zeros(2, 0, head_dim - 1)
        };
        let q = first_channel(vec![(slope * (head_dim as f64).sqrt()).round(); t])?;
        let k = first_channel((0..t).map(|key| key as f64).collect())?;
        let v = uniform(&[1, t, head_dim], 1)?
            .to_dtype(DType::BF16)?
            .to_dtype(DType::F64)?;
        let kv = Tensor::cat(&[k, v], 2)?;
        let (expected, _) = reference::forward(&a, &q, &kv, None, 0, None)?;
        let on_device = |x: &Tensor| x.to_dtype(DType::BF16)?.to_device(&device);
        let found = forward(&a, &on_device(&q)?, &on_device(&kv)?, None, 0, None)?.out;
        let error = relative_error(&found, &expected, 1e-6)?;
        assert!(error < 1e-2, "slope {slope}: {error}");
    }
    Ok(())
}

/// On a CUDA device, aligned or unaligned slices give the same results as copies of them.
#[test]
fn inputs_on_cuda_may_be_parts_of_larger_tensors() -> Result<()> {
    let device = crate::cuda::device(0)?;
    let a = case(3, 5).heads(2, 16).a;
    for (offset, rows, dtype) in [
        (0, 4, DType::BF16),
        (8, 4, DType::BF16),
        (3, 4, DType::BF16),
        (8, 90, DType::BF16),
        (3, 90, DType::F32),
    ] {
        let uniform = |shape: &[usize], seed| uniform(shape, seed)?.to_dtype(dtype)?.to_device(&device);
        let packed = uniform(&[3, 5, 112], 1)?;
        let (q, kv) = (packed.narrow(2, offset, 32)?, packed.narrow(2, offset + 32, 64)?);
        let d_out = uniform(&[3, 5, 112], 2)?.narrow(2, offset, 32)?;
        let d_present = uniform(&[3, 64, 5], 3)?.transpose(1, 2)?;
        let past = uniform(&[3, rows + 4, 64], 4)?.narrow(1, 3, rows)?;
        let results =
            |q: &Tensor, kv: &Tensor, past: &Tensor, d_out: &Tensor, d_present: &Tensor| -> Result<Vec<Tensor>> {
                let output = forward(&a, q, kv, Some(past), rows, None)?;
                let gradients = backward(&a, q, kv, Some(past), rows, None, output.saved, d_out, Some(d_present))?;
                let mut results = vec![output.out, output.present, gradients.d_q, gradients.d_kv];
                results.extend(gradients.d_past);
                Ok(results)
            };
        let found = results(&q, &kv, &past, &d_out, &d_present)?;
        let copy = |tensor: &Tensor| tensor.force_contiguous();
        let expected = results(
            &copy(&q)?,
            &copy(&kv)?,
            &copy(&past)?,
            &copy(&d_out)?,
            &copy(&d_present)?,
        )?;
        assert_eq!(found.len(), 5);
        for (found, expected) in found.iter().zip(&expected) {
            assert_eq!(relative_error(found, expected, 1e-6)?, 0.0);
        }
    }
    Ok(())
}

/// Prints the time of forward and backward at practical sizes, in µs: the median of groups of
/// calls.
#[test]
#[ignore = "measures, for `--ignored --nocapture` on a device that is otherwise idle"]
fn times_on_cuda() -> Result<()> {
    use std::time::Instant;
    const GROUPS: usize = 5;
    let device = crate::cuda::device(0)?;
    let median = |calls: usize, call: &dyn Fn() -> Result<()>| -> Result<f64> {
        call()?;
        let mut times = Vec::with_capacity(GROUPS);
        for _ in 0..GROUPS {
            device.synchronize()?;
            let start = Instant::now();
            for _ in 0..calls {
                call()?;
            }
            device.synchronize()?;
            times.push(start.elapsed().as_secs_f64() * 1e6 / calls as f64);
        }
        times.sort_by(f64::total_cmp);
        Ok(times[GROUPS / 2])
    };
    let practice = [
        (DType::BF16, case(6144, 8).heads(16, 64).past(1, 1)),
        (DType::BF16, case(6144, 8).heads(16, 64)),
        (DType::BF16, case(8192, 16).heads(16, 64).past(1, 1)),
        (DType::BF16, case(6144, 8).heads(8, 128).past(1, 1)),
        (DType::F32, case(6144, 8).heads(16, 64).past(1, 1)),
        (DType::BF16, case(4, 8192).heads(16, 64).past(1, 1)),
        (DType::BF16, case(4, 8192).heads(16, 64)),
        (DType::BF16, case(4, 8192).heads(8, 128).past(1, 1)),
        (DType::F32, case(1, 2048).heads(16, 64)),
        (DType::BF16, case(1, 1).heads(16, 64).past(1, 8192)),
        (DType::BF16, case(16, 1).heads(16, 64).past(16, 8192)),
    ];
    for (dtype, case) in practice {
        let (n, t, s) = (case.sequences, case.queries, case.past.map_or(0, |(_, rows)| rows));
        let width = case.a.heads * case.a.head_dim;
        let random = |shape: &[usize]| Tensor::randn(0f32, 1.0, shape, &device)?.to_dtype(dtype);
        let (q, kv, d_out) = (
            random(&[n, t, width])?,
            random(&[n, t, 2 * width])?,
            random(&[n, t, width])?,
        );
        let past = case.past.map(|(n, rows)| random(&[n, rows, 2 * width])).transpose()?;
        let calls = if t > 1000 { 5 } else { 20 };
        let ahead = median(calls, &|| {
            forward(&case.a, &q, &kv, past.as_ref(), case.start, None).map(|_| ())
        })?;
        let both = median(calls, &|| {
            let saved = forward(&case.a, &q, &kv, past.as_ref(), case.start, None)?.saved;
            backward(&case.a, &q, &kv, past.as_ref(), case.start, None, saved, &d_out, None).map(|_| ())
        })?;
        // pairs of a query and a key that it sees, and the least memory traffic: q and out, kv and
        // present
        let pairs = n as f64 * t as f64 * (s as f64 + (t as f64 + 1.0) / 2.0);
        let products = 4.0 * pairs * width as f64 / 1e6;
        let past_rows = case.past.map_or(0, |(n, rows)| n * rows);
        let bytes = ((6 * n * t + 2 * past_rows) * width * dtype.size_in_bytes()) as f64 / 1e6;
        let back = both - ahead;
        println!(
            "{dtype:?} n {n} t {t} s {s} heads {}x{}: forward {ahead:.0} µs ({:.0} TFLOP/s, {:.2} TB/s), \
             backward {back:.0} µs ({:.0} TFLOP/s)",
            case.a.heads,
            case.a.head_dim,
            products / ahead,
            bytes / ahead,
            2.5 * products / back
        );
    }
    Ok(())
}
