//! The safetensors format: `[u64 length n][n bytes of JSON][the tensors' bytes]`, all
//! little-endian.
//!
//! The JSON maps each name to an element type, a shape and a byte range, relative to its end.

use std::io::{self, Write};

use ::safetensors::tensor::Metadata;
use candle_core::Tensor;
use serde_json::{Map, Value, json};

use super::stored::{self, Stored};

/// The size of the header's length field, in bytes.
const PREFIX: usize = 8;

/// The longest accepted header, in bytes: enough for a few hundred thousand tensors.
const MAX_HEADER: usize = 16 << 20;

/// Returns whether the file begins like a safetensors file; the rest may be damaged.
pub(super) fn is_format(file: &[u8]) -> bool {
    file.get(PREFIX) == Some(&b'{')
}

/// Returns the location of each tensor of a safetensors file, in the order of their bytes.
pub(super) fn read(file: &[u8]) -> Result<Vec<(String, Stored)>, String> {
    let (metadata, start) = header(file)?;
    let mut tensors = Vec::new();
    for name in metadata.offset_keys() {
        let Some(info) = metadata.info(&name) else { continue };
        // The ranges are within the data: they are contiguous up to `data_len`.
        let bytes = start + info.data_offsets.0..start + info.data_offsets.1;
        let stored = Stored::contiguous(info.dtype, info.shape.clone(), bytes)
            .map_err(|message| format!("tensor `{name}`: {message}"))?;
        tensors.push((name, stored));
    }
    Ok(tensors)
}

/// Returns the metadata of this key in a safetensors file.
pub(super) fn metadata(file: &[u8], key: &str) -> Option<String> {
    let (metadata, _) = header(file).ok()?;
    metadata.metadata().as_ref()?.get(key).cloned()
}

/// Returns the header of a safetensors file and the offset of its data.
fn header(file: &[u8]) -> Result<(Metadata, usize), String> {
    let (prefix, rest) = file
        .split_first_chunk::<PREFIX>()
        .ok_or_else(|| format!("{} bytes are too few for a safetensors header", file.len()))?;
    let length = usize::try_from(u64::from_le_bytes(*prefix)).unwrap_or(usize::MAX);
    if length > MAX_HEADER.min(rest.len()) {
        return Err(format!(
            "the file claims a header of {length} bytes, but {} bytes follow, and a header has at most {MAX_HEADER}: \
             the file is cut short or is not a safetensors file; copy or download it again",
            rest.len()
        ));
    }
    let (header, data) = rest.split_at(length);
    let metadata: Metadata =
        serde_json::from_slice(header).map_err(|error| format!("damaged safetensors header: {error}"))?;
    if metadata.data_len() != data.len() {
        return Err(format!(
            "the header describes {} bytes of tensors, but {} bytes follow: the file is cut short or damaged; copy or \
             download it again",
            metadata.data_len(),
            data.len()
        ));
    }
    Ok((metadata, PREFIX + length))
}

/// Writes floating-point tensors as `f32`, each name once, with the metadata that the Python
/// libraries require.
///
/// # Errors
/// Errors of `out`, a duplicate name, and tensors that cannot be read.
pub fn write(tensors: &[(String, Tensor)], out: &mut dyn Write) -> io::Result<()> {
    write_with(tensors, &[], out)
}

/// Writes the same with additional metadata.
///
/// # Errors
/// As for [`write()`].
pub fn write_with(tensors: &[(String, Tensor)], metadata: &[(&str, &str)], out: &mut dyn Write) -> io::Result<()> {
    let mut header = Map::new();
    let further = metadata.iter().map(|(key, value)| (key.to_string(), json!(value)));
    let metadata: Map<_, _> = [("format".to_string(), json!("pt"))]
        .into_iter()
        .chain(further)
        .collect();
    header.insert("__metadata__".into(), metadata.into());
    let mut end = 0;
    for (name, tensor) in tensors {
        let start = end;
        end += tensor.elem_count() * size_of::<f32>();
        let entry = json!({"dtype": "F32", "shape": tensor.dims(), "data_offsets": [start, end]});
        if header.insert(name.clone(), entry).is_some() {
            return Err(io::Error::other(format!("the name `{name}` is reserved or used twice")));
        }
    }
    let mut header = Value::Object(header).to_string();
    // The data begin at a multiple of 8 bytes.
    while !header.len().is_multiple_of(8) {
        header.push(' ');
    }
    out.write_all(&(header.len() as u64).to_le_bytes())?;
    out.write_all(header.as_bytes())?;
    tensors
        .iter()
        .try_for_each(|(_, tensor)| stored::write_f32(tensor, &mut *out))
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{DType, Device};

    fn file(header: &str, data: usize) -> Vec<u8> {
        let mut file = (header.len() as u64).to_le_bytes().to_vec();
        file.extend(header.as_bytes());
        file.resize(file.len() + data, 0);
        file
    }

    #[test]
    fn the_reference_library_reads_what_is_written() {
        let transposed = Tensor::arange(0f64, 6., &Device::Cpu)
            .unwrap()
            .reshape((2, 3))
            .unwrap()
            .t()
            .unwrap();
        let scalar = Tensor::new(-1.5f32, &Device::Cpu).unwrap();
        let mut bytes = Vec::new();
        write(&[("b".into(), transposed), ("a".into(), scalar)], &mut bytes).unwrap();
        let (_, metadata) = ::safetensors::SafeTensors::read_metadata(&bytes).unwrap();
        assert_eq!(metadata.metadata().as_ref().unwrap()["format"], "pt");
        let parsed = ::safetensors::SafeTensors::deserialize(&bytes).unwrap();
        let b = parsed.tensor("b").unwrap();
        assert_eq!((b.dtype(), b.shape()), (::safetensors::Dtype::F32, &[3, 2][..]));
        let expected: Vec<u8> = [0f32, 3., 1., 4., 2., 5.]
            .iter()
            .flat_map(|value| value.to_le_bytes())
            .collect();
        assert_eq!(b.data(), expected);
        assert!(b.data().as_ptr().addr() % 8 == bytes.as_ptr().addr() % 8);
        let a = read(&bytes).unwrap().pop().unwrap();
        assert_eq!(a.0, "a");
        let a = a.1.load(&bytes, DType::F32, &Device::Cpu).unwrap();
        assert_eq!(a.to_scalar::<f32>().unwrap(), -1.5);
    }

    #[test]
    fn headers_that_lie_are_refused() {
        let message = |file: &[u8]| read(file).unwrap_err();
        assert!(message(&[0; 7]).contains("too few"));
        assert!(
            message(&u64::MAX.to_le_bytes())
                .contains("claims a header of 18446744073709551615 bytes, but 0 bytes follow")
        );
        assert!(message(&file("{", 0)).contains("damaged safetensors header"));
        let good = r#"{"w":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]}}"#;
        assert!(read(&file(good, 24)).is_ok());
        assert!(message(&file(good, 23)).contains("describes 24 bytes of tensors, but 23 bytes follow"));
        assert!(read(&file(&good.replace("[2,3]", "[2,4]"), 24)).is_err());
        assert!(read(&file(&good.replace("[2,3]", "[4294967296,4294967296]"), 24)).is_err());
        assert!(read(&file(&good.replace("[0,24]", "[24,0]"), 24)).is_err());
        // Ranges whose sum runs over the end of the address space.
        let huge = 1u64 << 61;
        let lying: Vec<String> = (0..8u64)
            .map(|i| {
                let end = if i == 7 { u64::MAX - 7 } else { (i + 1) * (huge - 1) };
                let start = i * (huge - 1);
                format!(
                    r#""{i}":{{"dtype":"U8","shape":[{}],"data_offsets":[{start},{end}]}}"#,
                    end - start
                )
            })
            .collect();
        assert!(read(&file(&format!("{{{}}}", lying.join(",")), 24)).is_err());
    }

    #[test]
    fn a_reserved_name_is_refused() {
        let tensor = Tensor::new(1f32, &Device::Cpu).unwrap();
        let error = write(&[("__metadata__".into(), tensor)], &mut Vec::new()).unwrap_err();
        assert!(error.to_string().contains("`__metadata__` is reserved"));
    }
}
