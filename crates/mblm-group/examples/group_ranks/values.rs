//! Compares every collective of a group with its definition, and the bits among ranks and repeats.

use std::hash::{DefaultHasher, Hash, Hasher};

use candle_core::{DType, Device, Result, Tensor, bail};
use mblm_group::Group;

/// Lengths of a shard: one element, odd ones, several of the messages of a small limit.
const LENGTHS: [usize; 4] = [1, 5, 1000, 20_011];

/// Checks all collectives three times; returns the hash of all results, the same on all ranks.
pub(crate) fn check(group: &dyn Group, device: &Device) -> Result<u64> {
    let dtypes = match device.is_cpu() {
        true => [DType::F32, DType::F64],
        false => [DType::F32, DType::BF16],
    };
    let mut first = None;
    for repeat in 0..3 {
        let mut hasher = DefaultHasher::new();
        for dtype in dtypes {
            for length in LENGTHS {
                sums(group, length, dtype, device, &mut hasher)?;
            }
            neighbours(group, dtype, device)?;
        }
        records(group)?;
        parts(group, device)?;
        group.barrier()?;

        let hash = hasher.finish();
        let hashes = group.gather(&hash.to_le_bytes())?;
        if hashes.iter().any(|other| *other != hash.to_le_bytes()) {
            bail!("repeat {repeat}: expected the same bits on all ranks, found {hashes:?}");
        }
        if *first.get_or_insert(hash) != hash {
            bail!("repeat {repeat}: expected the same bits as before");
        }
    }
    Ok(first.unwrap_or_default())
}

/// `count` numbers of rank `rank` that no other position or rank has.
fn numbers(rank: usize, count: usize, dtype: DType, device: &Device) -> Result<Tensor> {
    let values: Vec<f64> = (0..count)
        .map(|at| ((rank * 31 + at * 7) as f64 * 0.1).sin() + rank as f64)
        .collect();
    Tensor::new(values, &Device::Cpu)?.to_dtype(dtype)?.to_device(device)
}

fn host(tensor: &Tensor) -> Result<Vec<f64>> {
    tensor
        .flatten_all()?
        .to_device(&Device::Cpu)?
        .to_dtype(DType::F64)?
        .to_vec1()
}

/// Fails unless the numbers are equal but for rounding to `dtype`.
fn compare(what: &str, found: &[f64], expected: &[f64], dtype: DType) -> Result<()> {
    let tolerance = match dtype {
        DType::F64 => 1e-14,
        DType::F32 => 1e-6,
        _ => 1e-2,
    };
    let scale = expected.iter().fold(1.0, |max: f64, value| max.max(value.abs()));
    let near = |(found, expected): (&f64, &f64)| (found - expected).abs() <= tolerance * scale;
    if found.len() != expected.len() || !found.iter().zip(expected).all(near) {
        bail!(
            "{what} in {dtype:?}: expected {} numbers as by definition, found {}: {:?} …, {:?} …",
            expected.len(),
            found.len(),
            &expected[..expected.len().min(4)],
            &found[..found.len().min(4)]
        );
    }
    Ok(())
}

fn sums(group: &dyn Group, length: usize, dtype: DType, device: &Device, hasher: &mut impl Hasher) -> Result<()> {
    let (rank, size) = (group.rank(), group.size());
    let mut sum = vec![0.0; size * length];
    for rank in 0..size {
        for (sum, value) in sum.iter_mut().zip(host(&numbers(rank, size * length, dtype, device)?)?) {
            *sum += value;
        }
    }
    let data = numbers(rank, size * length, dtype, device)?;
    let shard = group.reduce_scatter(&data)?;
    compare("reduce_scatter", &host(&shard)?, &sum[rank * length..][..length], dtype)?;
    let all = group.all_gather(&shard)?;
    compare("all_gather", &host(&all)?, &sum, dtype)?;
    let reduced = group.all_reduce(&data.reshape((size, 1, length))?)?;
    if host(&reduced)? != host(&all)? || reduced.dims() != [size, 1, length] {
        bail!(
            "expected the bits of reduce_scatter and all_gather in {:?}",
            reduced.dims()
        );
    }
    // a length that the size does not divide, from the middle of a tensor
    let odd = data.narrow(0, 1, size * length - 1)?;
    compare("all_reduce", &host(&group.all_reduce(&odd)?)?, &sum[1..], dtype)?;
    host(&all)?.iter().for_each(|value| value.to_bits().hash(hasher));
    Ok(())
}

/// A ring: each rank sends to the next and receives from the one before; then the other way.
fn neighbours(group: &dyn Group, dtype: DType, device: &Device) -> Result<()> {
    let (rank, size) = (group.rank(), group.size());
    if size == 1 {
        return Ok(());
    }
    for (to, from) in [
        ((rank + 1) % size, (rank + size - 1) % size),
        ((rank + size - 1) % size, (rank + 1) % size),
    ] {
        let data = numbers(rank, 6 * 50, dtype, device)?.reshape((6, 50))?;
        let received = match rank % 2 {
            0 => {
                group.send(to, &data)?;
                group.receive(from, &data)?
            }
            _ => {
                let received = group.receive(from, &data)?;
                group.send(to, &data)?;
                received
            }
        };
        let expected = host(&numbers(from, 300, dtype, device)?)?;
        if host(&received)? != expected || received.dims() != [6, 50] || received.dtype() != dtype {
            bail!("receive: expected the tensor of rank {from}");
        }
    }
    Ok(())
}

fn records(group: &dyn Group) -> Result<()> {
    for scale in [0, 1, 3000] {
        let record = |rank: usize| vec![rank as u8 + 1; rank * scale];
        let expected: Vec<_> = (0..group.size()).map(record).collect();
        if group.gather(&record(group.rank()))? != expected {
            bail!("gather: expected the records of all ranks, scale {scale}");
        }
        for root in 0..group.size() {
            let bytes = |rank: usize| vec![rank as u8 + 7; scale * 100 + rank];
            if group.broadcast(root, &bytes(group.rank()))? != bytes(root) {
                bail!("broadcast: expected the bytes of rank {root}, scale {scale}");
            }
        }
    }
    Ok(())
}

/// Even and odd ranks form a group each.
fn parts(group: &dyn Group, device: &Device) -> Result<()> {
    let (rank, size) = (group.rank(), group.size());
    let part = group.split(rank % 2)?;
    let members: Vec<f64> = (0..size)
        .filter(|other| other % 2 == rank % 2)
        .map(|other| other as f64)
        .collect();
    if part.size() != members.len() || part.rank() != rank / 2 {
        bail!(
            "split: expected rank {} of {}, found {} of {}",
            rank / 2,
            members.len(),
            part.rank(),
            part.size()
        );
    }
    let all = part.all_gather(&Tensor::full(rank as f32, 1, device)?)?;
    compare("split", &host(&all)?, &members, DType::F32)?;
    let sum = part.all_reduce(&Tensor::full(rank as f32, 3, device)?)?;
    compare("split", &host(&sum)?, &[members.iter().sum::<f64>(); 3], DType::F32)?;
    part.end()
}
