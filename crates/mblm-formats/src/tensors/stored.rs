//! One tensor in a file: the location of its bytes, and its conversion to and from a tensor.
//!
//! Element `(i_0, …, i_r)` is the little-endian number at index `Σ i_k · stride_k` of the tensor's
//! bytes. All claims of the file are checked when it is opened, so a [`Stored`] is valid.

use std::io::{self, Write};
use std::ops::Range;

use ::safetensors::Dtype;
use candle_core::{DType, Device, Result, Shape, Tensor, WithDType};

/// The most dimensions a tensor may have.
const MAX_RANK: usize = 16;

/// The location and layout of a tensor.
#[derive(Debug)]
pub struct Stored {
    pub(super) dtype: Dtype,
    pub(super) shape: Vec<usize>,
    /// Strides in elements; `None` for a contiguous row-major tensor.
    strides: Option<Vec<usize>>,
    /// The byte range in the file.
    bytes: Range<usize>,
    /// Whether the numbers in the file must be negated.
    negated: bool,
}

impl Stored {
    /// Returns the element type in the file.
    pub fn dtype(&self) -> Dtype {
        self.dtype
    }

    /// Returns the shape.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// Describes a contiguous tensor that fills `bytes` of the file exactly.
    pub(super) fn contiguous(
        dtype: Dtype,
        shape: Vec<usize>,
        bytes: Range<usize>,
    ) -> std::result::Result<Self, String> {
        let needed = size(dtype, elements(&shape)?)?;
        if needed != bytes.len() {
            return Err(format!(
                "shape {shape:?} of {dtype} needs {needed} bytes, but the file has {}",
                bytes.len()
            ));
        }
        Ok(Self {
            dtype,
            shape,
            strides: None,
            bytes,
            negated: false,
        })
    }

    /// Describes a view into the bytes `storage` of the file; `offset` and strides are in elements.
    pub(super) fn view(
        dtype: Dtype,
        shape: Vec<usize>,
        strides: Vec<usize>,
        offset: usize,
        storage: Range<usize>,
    ) -> std::result::Result<Self, String> {
        if shape.len() != strides.len() {
            return Err(format!("shape {shape:?} with strides {strides:?}"));
        }
        let count = elements(&shape)?;
        // One past the largest index of the view.
        let mut end = offset.checked_add(count.min(1));
        for (&dim, &stride) in shape.iter().zip(&strides).filter(|_| count > 0) {
            end = (dim - 1).checked_mul(stride).and_then(|span| end?.checked_add(span));
        }
        let available = storage.len();
        let fits = |elements| size(dtype, elements).is_ok_and(|bytes| bytes <= available);
        // A view with more elements than its storage (strides of 0) would let a small file request
        // any amount of memory.
        if !end.is_some_and(fits) || !fits(count) {
            return Err(format!(
                "shape {shape:?} with strides {strides:?} from element {offset} does not fit into its storage of \
                 {available} bytes of {dtype}"
            ));
        }
        // The check above keeps this within the storage.
        let start = storage.start + size(dtype, offset)?;
        let strides = (!Shape::from(shape.as_slice()).is_contiguous(&strides)).then_some(strides);
        let end = match strides {
            Some(_) => storage.end,
            None => start + size(dtype, count)?,
        };
        Ok(Self {
            dtype,
            shape,
            strides,
            bytes: start..end,
            negated: false,
        })
    }

    /// Negates the numbers: torch's negative bit marks a view that is negated when it is read.
    pub(super) fn negated(mut self) -> Self {
        self.negated = !self.negated;
        self
    }

    /// Returns whether the elements are floating-point numbers, which [`Stored::load`] converts.
    pub fn is_float(&self) -> bool {
        matches!(self.dtype, Dtype::F16 | Dtype::BF16 | Dtype::F32 | Dtype::F64)
    }

    /// Returns the tensor as `dtype` on `device`; `file` is the file in which it was found.
    ///
    /// # Errors
    /// Elements that are not floating-point numbers, or a file that has become shorter.
    pub fn load(&self, file: &[u8], dtype: DType, device: &Device) -> Result<Tensor> {
        let Some(bytes) = file.get(self.bytes.clone()) else {
            candle_core::bail!("the file is shorter than when it was opened")
        };
        let tensor = match self.dtype {
            Dtype::F16 => self.decode(bytes, half::f16::from_le_bytes),
            Dtype::BF16 => self.decode(bytes, half::bf16::from_le_bytes),
            Dtype::F32 => self.decode(bytes, f32::from_le_bytes),
            Dtype::F64 => self.decode(bytes, f64::from_le_bytes),
            other => candle_core::bail!("expected floating-point numbers, found elements of type {other}"),
        }?;
        let tensor = if self.negated { tensor.neg()? } else { tensor };
        tensor.to_dtype(dtype)?.to_device(device)
    }

    fn decode<const N: usize, T: WithDType>(&self, bytes: &[u8], from_le: impl Fn([u8; N]) -> T) -> Result<Tensor> {
        let (elements, _) = bytes.as_chunks::<N>();
        let values: Vec<T> = match &self.strides {
            None => elements.iter().map(|&element| from_le(element)).collect(),
            // Each index is within the storage: `Stored::view` has checked the largest one.
            Some(strides) => (0..self.shape.iter().product())
                .map(|flat| from_le(elements[storage_index(flat, &self.shape, strides)]))
                .collect(),
        };
        Tensor::from_vec(values, self.shape.as_slice(), &Device::Cpu)
    }
}

/// Returns the storage index of element `flat` of a view, counted in row-major order.
fn storage_index(mut flat: usize, shape: &[usize], strides: &[usize]) -> usize {
    let mut index = 0;
    for (&dim, &stride) in shape.iter().zip(strides).rev() {
        index += flat % dim * stride;
        flat /= dim;
    }
    index
}

/// Writes the elements of a floating-point tensor as contiguous little-endian `f32`.
pub(super) fn write_f32(tensor: &Tensor, out: &mut dyn Write) -> io::Result<()> {
    const PIECE: usize = 4096;
    let values = to_f32(tensor).map_err(io::Error::other)?;
    let mut bytes = Vec::with_capacity(PIECE * size_of::<f32>());
    for piece in values.chunks(PIECE) {
        bytes.clear();
        bytes.extend(piece.iter().flat_map(|value| value.to_le_bytes()));
        out.write_all(&bytes)?;
    }
    Ok(())
}

fn to_f32(tensor: &Tensor) -> Result<Vec<f32>> {
    tensor
        .to_device(&Device::Cpu)?
        .to_dtype(DType::F32)?
        .flatten_all()?
        .to_vec1()
}

fn elements(shape: &[usize]) -> std::result::Result<usize, String> {
    if shape.len() > MAX_RANK {
        return Err(format!("{} dimensions, at most {MAX_RANK} expected", shape.len()));
    }
    // Dimensions of 0 count as 1 here, so that no product of some of the dimensions overflows.
    let bound = shape
        .iter()
        .try_fold(1usize, |product, &dim| product.checked_mul(dim.max(1)));
    match bound {
        Some(_) if shape.contains(&0) => Ok(0),
        Some(count) => Ok(count),
        None => Err(format!("shape {shape:?} has more elements than memory has addresses")),
    }
}

fn size(dtype: Dtype, elements: usize) -> std::result::Result<usize, String> {
    match elements.checked_mul(dtype.bitsize()) {
        Some(bits) if bits % 8 == 0 => Ok(bits / 8),
        _ => Err(format!(
            "{elements} elements of {dtype} are not a whole number of addressable bytes"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(count: u8) -> Vec<u8> {
        (0..count).flat_map(|value| f32::from(value).to_le_bytes()).collect()
    }

    fn view(
        shape: &[usize],
        strides: &[usize],
        offset: usize,
        storage: Range<usize>,
    ) -> std::result::Result<Stored, String> {
        Stored::view(Dtype::F32, shape.to_vec(), strides.to_vec(), offset, storage)
    }

    #[test]
    fn views_are_gathered_by_their_strides() {
        let file = file(12);
        let transposed = view(&[3, 2], &[1, 3], 1, 8..48).unwrap();
        let tensor = transposed.load(&file, DType::F32, &Device::Cpu).unwrap();
        // The storage starts at element 2, the view at 3: rows 3,6 4,7 5,8.
        assert_eq!(tensor.to_vec2::<f32>().unwrap(), [[3., 6.], [4., 7.], [5., 8.]]);
        let plain = view(&[2, 2], &[2, 1], 8, 0..48).unwrap();
        let tensor = plain.load(&file, DType::F64, &Device::Cpu).unwrap();
        assert_eq!(tensor.to_vec2::<f64>().unwrap(), [[8., 9.], [10., 11.]]);
        let scalar = view(&[], &[], 11, 0..48).unwrap();
        let tensor = scalar.load(&file, DType::F32, &Device::Cpu).unwrap();
        assert_eq!(tensor.to_scalar::<f32>().unwrap(), 11.);
        let empty = view(&[0, 3], &[3, 1], 12, 0..48).unwrap();
        assert_eq!(empty.load(&file, DType::F32, &Device::Cpu).unwrap().dims(), [0, 3]);
    }

    #[test]
    fn views_beyond_their_storage_are_refused() {
        assert!(view(&[12], &[1], 0, 0..48).is_ok());
        assert!(view(&[12], &[1], 1, 0..48).is_err());
        assert!(view(&[2, 3], &[7, 2], 0, 0..48).is_ok());
        assert!(view(&[2, 3], &[8, 2], 0, 0..48).is_err());
        assert!(view(&[13], &[0], 0, 0..48).is_err(), "one number repeated");
        assert!(view(&[usize::MAX, 2], &[1, 1], 0, 0..48).is_err());
        assert!(view(&[2], &[usize::MAX], 0, 0..48).is_err());
        assert!(view(&[2], &[1], usize::MAX, 0..48).is_err());
        assert!(view(&[0], &[1], usize::MAX, 0..48).is_err());
        assert!(view(&[0, usize::MAX, 3], &[1, 1, 1], 0, 0..48).is_err());
        assert!(view(&[2], &[1, 1], 0, 0..48).is_err());
        assert!(view(&[1; 17], &[1; 17], 0, 0..48).is_err());
    }

    #[test]
    fn halves_become_the_requested_type() {
        let bytes: Vec<u8> = [1.5f32, -2.0]
            .iter()
            .flat_map(|&value| half::bf16::from_f32(value).to_le_bytes())
            .chain(
                [1.5f32, -2.0]
                    .iter()
                    .flat_map(|&value| half::f16::from_f32(value).to_le_bytes()),
            )
            .collect();
        for (dtype, range) in [(Dtype::BF16, 0..4), (Dtype::F16, 4..8)] {
            let stored = Stored::contiguous(dtype, vec![2], range).unwrap();
            let tensor = stored.load(&bytes, DType::F32, &Device::Cpu).unwrap();
            assert_eq!(tensor.to_vec1::<f32>().unwrap(), [1.5, -2.0]);
        }
    }
}
