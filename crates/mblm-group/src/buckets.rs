//! Buckets: parameters as a few long vectors, each divided equally among S ranks.
//!
//! The parameters, in order and flattened, fill one bucket after another. A bucket holds whole
//! parameters and at least a given number of elements, and ends with zeros up to a multiple of S:
//!
//! ```text
//! bucket 0 = | parameter 0 | parameter 1 | 0 0 |          (S·n), n elements a shard
//!            | shard 0   | shard 1   | shard 2 |          shard s belongs to rank s
//! ```
//!
//! Gradients are packed and reduce-scattered; each rank steps its shard; the shards of the weights
//! are gathered and unpacked. Few long messages cost less than one for each parameter.

use std::ops::Range;

use candle_core::{DType, Device, Result, Tensor, bail};

/// The usual least number of elements of a bucket: 64 MiB of `f32`.
pub const MIN_ELEMENTS: usize = (64 << 20) / size_of::<f32>();

/// The division of a model's parameters into buckets and shards.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Buckets {
    /// The number of elements of each parameter.
    elements: Vec<usize>,
    /// The parameters of each bucket.
    buckets: Vec<Range<usize>>,
    /// The number of shards of a bucket.
    size: usize,
}

/// The elements of one parameter that lie in one shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// The parameter's number.
    pub parameter: usize,
    /// The elements of the flattened parameter.
    pub elements: Range<usize>,
    /// The place of the first of them in the shard.
    pub start: usize,
}

impl Buckets {
    /// Divides parameters of these numbers of elements into buckets of at least `min_elements`
    /// each, for `size` ranks.
    ///
    /// If all parameters together have fewer elements, there is one bucket. A parameter is never
    /// cut.
    ///
    /// # Panics
    /// A `size` of 0.
    pub fn new(elements: &[usize], size: usize, min_elements: usize) -> Self {
        assert!(size > 0, "a group has at least one rank");
        let mut buckets = Vec::new();
        let (mut start, mut count) = (0, 0);
        for (parameter, elements) in elements.iter().enumerate() {
            count += elements;
            if count >= min_elements.max(1) {
                buckets.push(start..parameter + 1);
                (start, count) = (parameter + 1, 0);
            }
        }
        // what is left is too small for a bucket of its own
        match buckets.last_mut() {
            Some(last) => last.end = elements.len(),
            None if start < elements.len() => buckets.push(start..elements.len()),
            None => {}
        }
        Self {
            elements: elements.to_vec(),
            buckets,
            size,
        }
    }

    /// The number of buckets.
    pub fn len(&self) -> usize {
        self.buckets.len()
    }

    /// Whether there are no buckets, because there are no parameters.
    pub fn is_empty(&self) -> bool {
        self.buckets.is_empty()
    }

    /// The parameters of a bucket.
    ///
    /// # Panics
    /// A `bucket` that does not exist; so do the other functions.
    pub fn parameters(&self, bucket: usize) -> Range<usize> {
        self.buckets[bucket].clone()
    }

    /// The elements of a bucket, without the zeros at its end.
    pub fn elements(&self, bucket: usize) -> usize {
        self.elements[self.parameters(bucket)].iter().sum()
    }

    /// The length n of a shard of a bucket; the bucket has S·n elements with the zeros at its end.
    pub fn shard_len(&self, bucket: usize) -> usize {
        self.elements(bucket).div_ceil(self.size)
    }

    /// The elements of a bucket that belong to `rank`, zeros at the end included.
    pub fn shard_range(&self, bucket: usize, rank: usize) -> Range<usize> {
        let length = self.shard_len(bucket);
        rank * length..(rank + 1) * length
    }

    /// The parts of parameters in the shard of `rank`, in order; the zeros are in none.
    pub fn parts(&self, bucket: usize, rank: usize) -> Vec<Part> {
        let shard = self.shard_range(bucket, rank);
        let mut parts = Vec::new();
        let mut offset = 0; // of the parameter in the bucket
        for parameter in self.parameters(bucket) {
            let end = offset + self.elements[parameter];
            let (first, last) = (shard.start.max(offset), shard.end.min(end));
            if first < last {
                parts.push(Part {
                    parameter,
                    elements: first - offset..last - offset,
                    start: first - shard.start,
                });
            }
            offset = end;
        }
        parts
    }

    /// Joins the tensors of a bucket's parameters: (S·n), zeros at the end included.
    ///
    /// A bucket of a single parameter may share the memory of its tensor.
    ///
    /// # Errors
    /// A failure of `tensor`; a tensor with another number of elements than its parameter; tensors
    /// of different types or on different devices.
    pub fn pack(&self, bucket: usize, mut tensor: impl FnMut(usize) -> Result<Tensor>) -> Result<Tensor> {
        let mut tensors = Vec::new();
        for parameter in self.parameters(bucket) {
            let flat = tensor(parameter)?.flatten_all()?;
            if flat.elem_count() != self.elements[parameter] {
                bail!(
                    "pack: expected {} elements of parameter {parameter}, found {}",
                    self.elements[parameter],
                    flat.elem_count()
                );
            }
            tensors.push(flat);
        }
        let padding = self.shard_len(bucket) * self.size - self.elements(bucket);
        if padding > 0 {
            let (dtype, device) = tensors.first().map_or((DType::F32, Device::Cpu), |first| {
                (first.dtype(), first.device().clone())
            });
            tensors.push(Tensor::zeros(padding, dtype, &device)?);
        }
        Tensor::cat(&tensors, 0)
    }

    /// Hands each parameter of a bucket its elements of `packed` (S·n), flat, in order.
    ///
    /// The tensors are contiguous and share the memory of `packed`.
    ///
    /// # Errors
    /// Another length of `packed`; a failure of `take`.
    pub fn unpack(
        &self,
        bucket: usize,
        packed: &Tensor,
        mut take: impl FnMut(usize, Tensor) -> Result<()>,
    ) -> Result<()> {
        let expected = self.shard_len(bucket) * self.size;
        if packed.dims() != [expected] {
            bail!("unpack: expected [{expected}], found {:?}", packed.dims());
        }
        let mut offset = 0;
        for parameter in self.parameters(bucket) {
            let count = self.elements[parameter];
            take(parameter, packed.narrow(0, offset, count)?)?;
            offset += count;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A parameter whose elements are no other's: its first element has number `start`.
    fn counted(start: usize, count: usize) -> Result<Tensor> {
        Tensor::arange(start as f64, (start + count) as f64, &Device::Cpu)
    }

    proptest! {
        #[test]
        fn every_element_is_in_one_shard(
            elements in prop::collection::vec(0usize..40, 0..20), size in 1usize..9, min in 0usize..60,
        ) {
            let buckets = Buckets::new(&elements, size, min);
            let mut seen: Vec<Vec<usize>> = elements.iter().map(|&count| vec![0; count]).collect();
            let mut next = 0;
            for bucket in 0..buckets.len() {
                prop_assert_eq!(buckets.parameters(bucket).start, next);
                next = buckets.parameters(bucket).end;
                prop_assert!(buckets.elements(bucket) >= min || buckets.len() == 1);
                prop_assert!(buckets.shard_len(bucket) * size < buckets.elements(bucket) + size);
                for rank in 0..size {
                    let mut filled = 0;
                    for part in buckets.parts(bucket, rank) {
                        prop_assert_eq!(part.start, filled);
                        filled += part.elements.len();
                        part.elements.for_each(|at| seen[part.parameter][at] += 1);
                    }
                    prop_assert!(filled <= buckets.shard_len(bucket));
                }
            }
            prop_assert_eq!(next, elements.len());
            prop_assert!(seen.iter().flatten().all(|&times| times == 1));
        }

        #[test]
        fn unpack_undoes_pack(
            elements in prop::collection::vec(0usize..40, 0..20), size in 1usize..9, min in 0usize..60,
        ) {
            let buckets = Buckets::new(&elements, size, min);
            let starts: Vec<usize> = (0..elements.len()).map(|index| 1 + elements[..index].iter().sum::<usize>()).collect();
            let mut returned = 0;
            for bucket in 0..buckets.len() {
                let packed = buckets.pack(bucket, |index| counted(starts[index], elements[index])).unwrap();
                let values: Vec<f64> = packed.to_vec1().unwrap();
                prop_assert_eq!(values.len(), buckets.shard_len(bucket) * size);
                prop_assert!(values[buckets.elements(bucket)..].iter().all(|&value| value == 0.0));
                for rank in 0..size {
                    let shard = &values[buckets.shard_range(bucket, rank)];
                    for part in buckets.parts(bucket, rank) {
                        for (at, element) in part.elements.enumerate() {
                            prop_assert_eq!(shard[part.start + at], (starts[part.parameter] + element) as f64);
                        }
                    }
                }
                buckets.unpack(bucket, &packed, |index, tensor| {
                    assert!(tensor.is_contiguous());
                    let expected: Vec<f64> = counted(starts[index], elements[index])?.to_vec1()?;
                    assert_eq!(tensor.to_vec1::<f64>()?, expected);
                    returned += 1;
                    Ok(())
                }).unwrap();
            }
            prop_assert_eq!(returned, elements.len());
        }
    }

    #[test]
    fn small_parameters_share_a_bucket() {
        let buckets = Buckets::new(&[5, 1, 2, 9, 3], 2, 8);
        let parameters: Vec<_> = (0..buckets.len()).map(|bucket| buckets.parameters(bucket)).collect();
        assert_eq!(parameters, [0..3, 3..5]);
        assert_eq!(buckets.shard_range(0, 1), 4..8);
        assert_eq!(
            buckets.parts(0, 1)[0],
            Part {
                parameter: 0,
                elements: 4..5,
                start: 0
            }
        );
        assert!(Buckets::new(&[], 2, 8).is_empty());
    }

    #[test]
    fn wrong_sizes_are_named() {
        let buckets = Buckets::new(&[3], 2, 8);
        let error = buckets.pack(0, |_| counted(0, 2)).unwrap_err().to_string();
        assert!(error.contains("expected 3 elements of parameter 0, found 2"), "{error}");
        let packed = counted(0, 3).unwrap();
        let error = buckets.unpack(0, &packed, |_, _| Ok(())).unwrap_err().to_string();
        assert!(error.contains("expected [4], found [3]"), "{error}");
    }
}
