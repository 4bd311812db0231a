//! Torch's file format: a zip archive of `NAME/data.pkl`, which describes the tensors, and one
//! uncompressed record `NAME/data/KEY` per storage.
//!
//! Accepted are a bare state dict `{name: tensor}` and checkpoints with one (`state_dict.rs`). A
//! tensor is pickled as the call `torch._utils._rebuild_tensor_v2(storage, offset, shape, strides,
//! requires_grad, hooks, {"neg": True})`, its storage as the persistent reference `("storage",
//! torch.FloatStorage, KEY, device, elements)`. Nothing in the file is executed.

use std::io::Cursor;
use std::ops::Range;

use ::safetensors::Dtype;
use zip::{CompressionMethod, ZipArchive};

use super::pickle::{Id, Object, Pickle};
use super::state_dict::{self, Rebuild};
use super::stored::Stored;

/// The key of the loss in a training checkpoint.
pub(super) const LOSS: &str = "LOSS";

/// The longest accepted `data.pkl`, in bytes.
const MAX_PICKLE: usize = 1 << 30;

/// Returns whether the file begins like a zip archive.
pub(super) fn is_format(file: &[u8]) -> bool {
    file.starts_with(b"PK\x03\x04")
}

/// Returns whether the file begins like a bare pickle, as written by torch before version 1.6.
pub(super) fn is_legacy_format(file: &[u8]) -> bool {
    matches!(file, [0x80, 1..=5, ..])
}

/// Returns the location of each tensor of a torch file, in the order of the state dict.
pub(super) fn read(file: &[u8]) -> Result<Vec<(String, Stored)>, String> {
    let mut archive = Archive::open(file)?;
    if let Some(order) = archive.record("byteorder")?
        && file.get(order.clone()) != Some(b"little")
    {
        return Err("the file was written on a big-endian machine; re-save it on a little-endian one".into());
    }
    let pickle = archive.required("data.pkl")?;
    if pickle.len() > MAX_PICKLE {
        return Err(format!(
            "its data.pkl has {} bytes; at most {MAX_PICKLE} are supported",
            pickle.len()
        ));
    }
    let pickle = Pickle::read(&file[pickle])?;
    let mut tensors = Vec::new();
    for (name, value) in state_dict::find(&pickle)? {
        let stored = tensor(&pickle, value, &mut archive).map_err(|message| format!("tensor `{name}`: {message}"))?;
        tensors.push((name.to_owned(), stored));
    }
    Ok(tensors)
}

/// The zip archive in the mapped file.
struct Archive<'a> {
    zip: ZipArchive<Cursor<&'a [u8]>>,
    length: usize,
    /// The common prefix of all record names, up to the slash.
    folder: String,
}

impl<'a> Archive<'a> {
    fn open(file: &'a [u8]) -> Result<Self, String> {
        let zip = ZipArchive::new(Cursor::new(file)).map_err(|error| {
            format!("the zip archive of this torch file is cut short or damaged ({error}); copy or download it again")
        })?;
        let folder = zip
            .file_names_raw()
            .filter_map(|name| std::str::from_utf8(name).ok()?.strip_suffix("/data.pkl"))
            .min_by_key(|folder| folder.len())
            .ok_or("expected a file of torch.save, found a zip archive without data.pkl")?
            .to_owned();
        Ok(Self {
            zip,
            length: file.len(),
            folder,
        })
    }

    /// Returns the byte range of a record in the file.
    fn record(&mut self, name: &str) -> Result<Option<Range<usize>>, String> {
        let path = format!("{}/{name}", self.folder);
        let Some(index) = self.zip.index_for_name_raw(path.as_bytes()) else {
            return Ok(None);
        };
        let record = self
            .zip
            .by_index_raw(index)
            .map_err(|error| format!("record `{path}` of the zip archive: {error}"))?;
        if record.encrypted() || record.compression() != CompressionMethod::Stored {
            return Err(format!(
                "record `{path}` is compressed or encrypted, but torch.save stores records without compression; \
                 re-save the file with torch.save"
            ));
        }
        let range = record.data_start().and_then(|start| {
            let start = usize::try_from(start).ok()?;
            let end = start.checked_add(usize::try_from(record.compressed_size()).ok()?)?;
            (end <= self.length).then_some(start..end)
        });
        match range {
            Some(range) => Ok(Some(range)),
            None => Err(format!("record `{path}` goes beyond the end of the file")),
        }
    }

    fn required(&mut self, name: &str) -> Result<Range<usize>, String> {
        self.record(name)?
            .ok_or_else(|| format!("the zip archive has no record `{}/{name}`", self.folder))
    }
}

/// Returns the tensor that an object of the pickle describes.
fn tensor(pickle: &Pickle, id: Id, archive: &mut Archive) -> Result<Stored, String> {
    let Rebuild { function, arguments } = state_dict::plain(pickle, id)?;
    let ("_rebuild_tensor_v2", &[storage, offset, shape, strides, ref more @ ..]) = (function, arguments) else {
        return Err(format!(
            "made by torch._utils.{function} with {} arguments, expected a plain dense tensor",
            arguments.len()
        ));
    };
    let offset = index(pickle, offset)?;
    let (shape, strides) = (indices(pickle, shape)?, indices(pickle, strides)?);
    let (dtype, bytes) = storage_of(pickle, storage, archive)?;
    let stored = Stored::view(dtype, shape, strides, offset, bytes)?;
    Ok(
        match more.get(2).is_some_and(|metadata| is_set(pickle, *metadata, "neg")) {
            true => stored.negated(),
            false => stored,
        },
    )
}

/// Returns whether a flag is set in a dict of flags.
fn is_set(pickle: &Pickle, id: Id, flag: &str) -> bool {
    let Object::Dict(flags) = pickle.get(id) else {
        return false;
    };
    flags.iter().any(|&(key, value)| {
        matches!(pickle.get(key), Object::Text(name) if *name == flag)
            && matches!(pickle.get(value), Object::Bool(true))
    })
}

/// Returns the element type of a storage and its byte range.
fn storage_of(pickle: &Pickle, id: Id, archive: &mut Archive) -> Result<(Dtype, Range<usize>), String> {
    let Object::Persistent(reference) = *pickle.get(id) else {
        return Err(format!("expected a storage, found {}", pickle.get(id).describe()));
    };
    let Object::Tuple(parts) = pickle.get(reference) else {
        return Err("a storage that is not described by a tuple".into());
    };
    let &[kind, class, key, _device, count] = parts.as_slice() else {
        return Err(format!("a storage described by {} values, expected 5", parts.len()));
    };
    let (Object::Text("storage"), Object::Global("torch" | "torch.storage", class), Object::Text(key)) =
        (pickle.get(kind), pickle.get(class), pickle.get(key))
    else {
        return Err("a storage that is not described by kind, class and key".into());
    };
    let dtype = dtype(class)?;
    let count = index(pickle, count)?;
    let bytes = archive.required(&format!("data/{key}"))?;
    // The elements of every storage class above are whole bytes.
    if count.checked_mul(dtype.bitsize() / 8) != Some(bytes.len()) {
        return Err(format!(
            "its storage should have {count} elements of {dtype}, but its record `data/{key}` has {} bytes",
            bytes.len()
        ));
    }
    Ok((dtype, bytes))
}

fn dtype(storage: &str) -> Result<Dtype, String> {
    Ok(match storage {
        "FloatStorage" => Dtype::F32,
        "DoubleStorage" => Dtype::F64,
        "HalfStorage" => Dtype::F16,
        "BFloat16Storage" => Dtype::BF16,
        "LongStorage" => Dtype::I64,
        "IntStorage" => Dtype::I32,
        "ShortStorage" => Dtype::I16,
        "CharStorage" => Dtype::I8,
        "ByteStorage" => Dtype::U8,
        "BoolStorage" => Dtype::BOOL,
        other => {
            return Err(format!(
                "a storage of class torch.{other}, expected FloatStorage or the like"
            ));
        }
    })
}

fn index(pickle: &Pickle, id: Id) -> Result<usize, String> {
    match *pickle.get(id) {
        Object::Int(value) => usize::try_from(value).map_err(|_| format!("{value} as a size or index")),
        ref other => Err(format!("{} as a size or index", other.describe())),
    }
}

fn indices(pickle: &Pickle, id: Id) -> Result<Vec<usize>, String> {
    match pickle.get(id) {
        Object::Tuple(items) => items.iter().map(|&item| index(pickle, item)).collect(),
        other => Err(format!("{} as shape or strides", other.describe())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use zip::ZipWriter;
    use zip::write::SimpleFileOptions;

    /// Returns the error of reading an archive with these records.
    fn error_of(records: &[(&str, &[u8])]) -> String {
        let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
        let options = SimpleFileOptions::default().compression_method(CompressionMethod::Stored);
        for (name, content) in records {
            zip.start_file(*name, options).unwrap();
            zip.write_all(content).unwrap();
        }
        read(&zip.finish().unwrap().into_inner()).unwrap_err()
    }

    /// Returns a state dict with one tensor `w` of shape (2) and the given storage description.
    fn tensor_of(storage: &[u8]) -> Vec<u8> {
        let mut pickle = b"\x80\x02}X\x01\x00\x00\x00wctorch._utils\n_rebuild_tensor_v2\n((".to_vec();
        pickle.extend(storage);
        pickle.extend(b"tQK\x00K\x02\x85K\x01\x85\x89)tRs.");
        pickle
    }

    fn described(class: &str, elements: u8) -> Vec<u8> {
        let mut storage = b"X\x07\x00\x00\x00storagectorch\n".to_vec();
        storage.extend(class.as_bytes());
        storage.extend(b"\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuK");
        storage.push(elements);
        tensor_of(&storage)
    }

    #[test]
    fn archives_without_a_state_dict_are_told() {
        assert!(error_of(&[("a.txt", b"text")]).contains("without data.pkl"));
        assert!(
            error_of(&[("m/data.pkl", b"\x80\x02]."),])
                .contains("expected a state dict or a training checkpoint, found a list")
        );
        let none = [
            b"\x80\x02}X\x05\x00\x00\x00MODELNs.".as_slice(),
            b"\x80\x02}K\x01Ns.",
            b"\x80\x02}.",
        ];
        for pickle in none {
            assert!(error_of(&[("m/data.pkl", pickle)]).contains("found no tensors"));
        }
        let called = b"\x80\x02}X\x01\x00\x00\x00wcos\nsystem\n)Rs.";
        assert!(error_of(&[("m/data.pkl", called)]).contains("found no tensors"));
        let sparse = b"\x80\x02}X\x01\x00\x00\x00wctorch._utils\n_rebuild_sparse_tensor\n)Rs.";
        assert!(error_of(&[("m/data.pkl", sparse)]).contains("_rebuild_sparse_tensor with 0 arguments"));
        assert!(error_of(&[("m/byteorder", b"big"), ("m/data.pkl", b"\x80\x02}.")]).contains("big-endian"));
    }

    /// Returns the names of the tensors in a dict with these keys: for `true` the value is a
    /// tensor, for `false` a dict with one tensor `w`.
    fn names_in(keys: &[(&str, bool)]) -> Result<Vec<String>, String> {
        let tensor = |key: &str| {
            let mut pickle = vec![b'X', key.len() as u8, 0, 0, 0];
            pickle.extend(key.as_bytes());
            let described = described("FloatStorage", 2);
            // without protocol, dict and name at the start and the end of dict and pickle
            pickle.extend(&described[b"\x80\x02}X\x01\x00\x00\x00w".len()..described.len() - 2]);
            pickle.push(b's');
            pickle
        };
        let mut pickle = b"\x80\x02}".to_vec();
        for &(key, is_tensor) in keys {
            match is_tensor {
                true => pickle.extend(tensor(key)),
                false => {
                    pickle.extend([b'X', key.len() as u8, 0, 0, 0]);
                    pickle.extend(key.as_bytes());
                    pickle.extend(b"}");
                    pickle.extend(tensor("w"));
                    pickle.push(b's');
                }
            }
        }
        pickle.push(b'.');
        let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
        let options = SimpleFileOptions::default().compression_method(CompressionMethod::Stored);
        for (name, content) in [("m/data.pkl", pickle.as_slice()), ("m/data/0", &[0; 8])] {
            zip.start_file(name, options).unwrap();
            zip.write_all(content).unwrap();
        }
        let tensors = read(&zip.finish().unwrap().into_inner())?;
        Ok(tensors.into_iter().map(|(name, _)| name).collect())
    }

    #[test]
    fn tensors_beside_a_state_dict_do_not_hide_it() {
        for keys in [
            [("LOSS", true), ("MODEL", false)],
            [("MODEL", false), ("LOSS", true)],
            [("state_dict", false), ("rng_state", true)],
            [("model", false), ("mask", true)],
        ] {
            assert_eq!(names_in(&keys).unwrap(), ["w"], "{keys:?}");
        }
        // unknown keys: the tensors at the top are the state dict
        assert_eq!(names_in(&[("a", true), ("extra", false)]).unwrap(), ["a"]);
        assert!(
            names_in(&[("gen", false), ("disc", false)])
                .unwrap_err()
                .contains("`gen`, `disc`")
        );
    }

    #[test]
    fn a_dict_under_several_names_is_one() {
        // {"gen": d, "copy": d}: d is an empty dict that is stored and then filled, or one that
        // contains itself
        let tensor = &described("FloatStorage", 2)[b"\x80\x02}".len()..];
        let filled = &tensor[..tensor.len() - 1];
        let pickle = [
            b"\x80\x02}X\x03\x00\x00\x00gen}q\x00".as_slice(),
            filled,
            b"sX\x04\x00\x00\x00copyh\x00s.",
        ];
        // its tensor is found; only the record is missing
        assert!(error_of(&[("m/data.pkl", &pickle.concat())]).contains("tensor `w`: the zip archive has no record"));
        let itself = b"\x80\x02}q\x00X\x05\x00\x00\x00modelh\x00sX\x01\x00\x00\x00ah\x00s.";
        assert!(error_of(&[("m/data.pkl", itself)]).contains("found no tensors"));
    }

    #[test]
    fn storages_are_checked_against_their_records() {
        let pickle = described("FloatStorage", 2);
        let data = [0u8; 8];
        assert!(error_of(&[("m/data.pkl", &pickle)]).contains("tensor `w`: the zip archive has no record `m/data/0`"));
        assert!(
            error_of(&[("m/data.pkl", &pickle), ("m/data/0", &data[..7])])
                .contains("should have 2 elements of F32, but its record `data/0` has 7 bytes")
        );
        let pickle = described("FloatStorage", 1);
        assert!(
            error_of(&[("m/data.pkl", &pickle), ("m/data/0", &data[..4])])
                .contains("does not fit into its storage of 4 bytes")
        );
        let pickle = described("QInt8Storage", 2);
        assert!(error_of(&[("m/data.pkl", &pickle), ("m/data/0", &data)]).contains("class torch.QInt8Storage"));
        let pickle = tensor_of(b"K\x01");
        assert!(error_of(&[("m/data.pkl", &pickle)]).contains("described by 1 values, expected 5"));
    }
}
