//! Tests of groups of threads: values of every collective, and ranks that leave.

use std::thread;

use candle_core::{DType, Device};

use super::*;

/// Runs `rank` on each rank of a group and returns the results in rank order.
fn on_ranks<T: Send>(size: usize, rank: impl Fn(&Threads) -> T + Sync) -> Vec<T> {
    let groups = Threads::with_limit(size, Duration::from_secs(20));
    thread::scope(|scope| {
        let rank = &rank;
        let threads: Vec<_> = groups
            .into_iter()
            .map(|group| scope.spawn(move || rank(&group)))
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().expect("the rank returns"))
            .collect()
    })
}

/// `count` numbers of rank `rank` that no other position or rank has.
fn numbers(rank: usize, count: usize, dtype: DType) -> Result<Tensor> {
    let values: Vec<f64> = (0..count)
        .map(|at| ((rank * 31 + at * 7) as f64 * 0.1).sin() + rank as f64)
        .collect();
    Tensor::new(values, &Device::Cpu)?.to_dtype(dtype)
}

fn values(tensor: &Tensor) -> Result<Vec<f64>> {
    tensor.flatten_all()?.to_dtype(DType::F64)?.to_vec1()
}

/// The sum over ranks of their numbers, in rank order and in the type of the tensors.
fn sums(size: usize, count: usize, dtype: DType) -> Result<Vec<f64>> {
    let mut sum = values(&numbers(0, count, dtype)?)?;
    for rank in 1..size {
        for (sum, value) in sum.iter_mut().zip(values(&numbers(rank, count, dtype)?)?) {
            *sum += value;
            if dtype == DType::F32 {
                *sum = f64::from(*sum as f32);
            }
        }
    }
    Ok(sum)
}

#[test]
fn collectives_compute_their_definition() -> Result<()> {
    for (size, dtype, length) in
        (1..=4).flat_map(|size| [(size, DType::F32, 5), (size, DType::F64, 1), (size, DType::F64, 0)])
    {
        let sum = sums(size, size * length, dtype)?;
        let results = on_ranks(size, |group| -> Result<_> {
            let data = numbers(group.rank(), size * length, dtype)?;
            let shard = group.reduce_scatter(&data)?;
            assert_eq!((shard.dims(), shard.dtype()), (&[length][..], dtype));
            let odd = numbers(group.rank(), 7 * 3, dtype)?.reshape((7, 1, 3))?;
            let reduced = group.all_reduce(&odd)?;
            assert_eq!(reduced.dims(), [7, 1, 3]);
            Ok((values(&shard)?, values(&group.all_gather(&shard)?)?, values(&reduced)?))
        });
        for (rank, result) in results.into_iter().enumerate() {
            let (shard, all, reduced) = result?;
            assert_eq!(shard, sum[rank * length..][..length], "{size} ranks, rank {rank}");
            assert_eq!(all, sum, "{size} ranks, rank {rank}");
            assert_eq!(reduced, sums(size, 21, dtype)?, "{size} ranks, rank {rank}");
        }
    }
    Ok(())
}

#[test]
fn a_sum_is_a_tensor_of_its_own() -> Result<()> {
    for size in 1..=3 {
        on_ranks(size, |group| -> Result<()> {
            let data = Tensor::ones(size, DType::F64, &Device::Cpu)?;
            let sum = group.reduce_scatter(&data)?;
            data.slice_set(&Tensor::zeros(size, DType::F64, &Device::Cpu)?, 0, 0)?;
            assert_eq!(values(&sum)?, [size as f64]);
            Ok(())
        })
        .into_iter()
        .collect::<Result<Vec<_>>>()?;
    }
    Ok(())
}

#[test]
fn records_and_bytes_reach_all_ranks() -> Result<()> {
    for size in 1..=4 {
        let results = on_ranks(size, |group| -> Result<_> {
            let record = vec![group.rank() as u8; group.rank() * 3];
            let mut broadcasts = Vec::new();
            for root in 0..size {
                broadcasts.push(group.broadcast(root, &[group.rank() as u8, 9])?);
            }
            group.barrier()?;
            let gathered = group.gather(&record)?;
            group.end()?;
            Ok((gathered, broadcasts))
        });
        for result in results {
            let (gathered, broadcasts) = result?;
            for rank in 0..size {
                assert_eq!(gathered[rank], vec![rank as u8; rank * 3]);
                assert_eq!(broadcasts[rank], [rank as u8, 9]);
            }
        }
    }
    Ok(())
}

#[test]
fn neighbours_pass_tensors_on() -> Result<()> {
    let results = on_ranks(3, |group| -> Result<_> {
        let like = Tensor::zeros((2, 2), DType::F32, &Device::Cpu)?;
        let mut sum = like.clone();
        if group.rank() > 0 {
            sum = group.receive(group.rank() - 1, &like)?;
        }
        let sum = (sum + (group.rank() + 1) as f64)?;
        if group.rank() < 2 {
            group.send(group.rank() + 1, &sum)?;
        }
        values(&sum)
    });
    let results = results.into_iter().collect::<Result<Vec<_>>>()?;
    assert_eq!(results, [[1.0; 4], [3.0; 4], [6.0; 4]]);
    Ok(())
}

#[test]
fn a_split_orders_its_ranks() -> Result<()> {
    let results = on_ranks(4, |group| -> Result<_> {
        let part = group.split(usize::from(group.rank() != 2))?;
        let own = Tensor::new(&[group.rank() as f64], &Device::Cpu)?;
        let pair = part.split(part.rank() % 2)?;
        Ok((part.rank(), values(&part.all_gather(&own)?)?, pair.size()))
    });
    let results = results.into_iter().collect::<Result<Vec<_>>>()?;
    let rest = vec![0.0, 1.0, 3.0];
    let expected = [
        (0, rest.clone(), 2),
        (1, rest.clone(), 1),
        (0, vec![2.0], 1),
        (2, rest, 2),
    ];
    assert_eq!(results, expected);
    Ok(())
}

#[test]
fn a_rank_that_leaves_or_panics_fails_the_others() {
    let groups = Threads::new(3);
    let mut groups = groups.into_iter();
    let (Some(first), Some(second), Some(third)) = (groups.next(), groups.next(), groups.next()) else {
        unreachable!("three ranks")
    };
    thread::scope(|scope| {
        let waiting = scope.spawn(move || {
            first.barrier()?; // complete before the second rank panics
            let like = Tensor::zeros(1, DType::F32, &Device::Cpu)?;
            assert!(first.receive(1, &like).is_err());
            first.barrier()
        });
        let panicking = scope.spawn(move || {
            second.barrier().expect("all ranks are there");
            std::panic::resume_unwind(Box::new("a panic without a message")); // the drop tells the others
        });
        third.barrier().expect("all ranks are there");
        let error = third.all_reduce(&Tensor::ones(4, DType::F32, &Device::Cpu).expect("4 numbers"));
        assert!(error.unwrap_err().to_string().contains("rank 1 has left the group"));
        drop(third);
        assert!(panicking.join().is_err());
        assert!(waiting.join().expect("the rank returns").is_err());
    });
}

#[test]
fn different_calls_are_named() {
    let errors = on_ranks(2, |group| {
        let data = Tensor::zeros(2 + 2 * group.rank(), DType::F32, &Device::Cpu).expect("some zeros");
        group.reduce_scatter(&data).map(drop).unwrap_err().to_string()
    });
    for error in errors {
        let expected = "reduce_scatter of [2] F32 on rank 0, found reduce_scatter of [4] F32 on rank 1";
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn wrong_arguments_are_named() -> Result<()> {
    let failed = |result: Result<Tensor>| result.unwrap_err().to_string();
    let groups = Threads::new(3);
    let data = Tensor::zeros(4, DType::F32, &Device::Cpu)?;
    let error = failed(groups[0].reduce_scatter(&data));
    assert!(error.contains("3 ranks divide, found 4; pad it to 6"), "{error}");
    assert!(failed(groups[0].reduce_scatter(&data.to_dtype(DType::BF16)?)).contains("found BF16"));
    for to in [0, 3] {
        let error = groups[0].send(to, &data).unwrap_err().to_string();
        assert!(error.contains("expected another rank"), "{error}");
    }
    assert!(groups[0].broadcast(3, b"").is_err());
    groups[1].send(0, &data)?;
    let error = failed(groups[0].receive(1, &data.reshape((2, 2))?));
    assert!(
        error.contains("expected [2, 2] F32 from rank 1, found [4] F32"),
        "{error}"
    );
    Ok(())
}

#[test]
fn a_wait_past_the_limit_fails() {
    let groups = Threads::with_limit(2, Duration::from_millis(50));
    let error = groups[0].barrier().unwrap_err().to_string();
    assert!(error.contains("gather: waited 0.05 s"), "{error}");
}
