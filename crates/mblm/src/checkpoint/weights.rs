//! An open file of named tensors of any supported format.

use std::fmt;
use std::fs::File;
use std::ops::Deref;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use indexmap::IndexMap;
use mblm_formats::tensors::{self, Stored, StoredType};
use memmap2::Mmap;

use super::layout::WEIGHTS_FILE;
use super::{names, run};
use crate::config::suggest;
use crate::model::Parameters;
use crate::{Error, Result};

/// The named tensors of a memory-mapped file, or of bytes in memory.
///
/// A mapped file is read as tensors are loaded. It must not change while it is open: if another
/// process shortens it, this process dies (`SIGBUS`), as with every mapped file. Files that this
/// crate writes are replaced, never changed in place.
#[derive(Debug)]
pub struct Weights {
    path: PathBuf,
    content: Content,
    tensors: IndexMap<String, Stored>,
}

/// The bytes of the file.
enum Content {
    Mapped(Mmap),
    Memory(Vec<u8>),
}

impl Deref for Content {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Mapped(map) => map,
            Self::Memory(bytes) => bytes,
        }
    }
}

impl fmt::Debug for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.len())
    }
}

/// Gives the tensors of a file their names.
type Rename = fn(Vec<(String, Stored)>) -> Result<IndexMap<String, Stored>, String>;

impl Weights {
    /// Opens a `.safetensors` file, a torch file (`.pth`, `.pt`, `.bin`: a state dict or a training
    /// checkpoint), or the `model.safetensors` of a model folder. The content decides the format.
    ///
    /// Names of older files are translated; buffers that follow from the configuration are dropped.
    pub fn open(path: &Path) -> Result<Self> {
        Self::open_with(path, names::current)
    }

    /// Opens a file of this library's own that holds other tensors than a model's parameters: names
    /// stay as they are stored.
    pub(crate) fn open_as_stored(path: &Path) -> Result<Self> {
        Self::open_with(path, |tensors| Ok(tensors.into_iter().collect()))
    }

    fn open_with(path: &Path, rename: Rename) -> Result<Self> {
        let metadata = std::fs::metadata(path).map_err(|error| Error::file(path, error))?;
        if metadata.is_dir() {
            let file = run::model_folder(path).join(WEIGHTS_FILE);
            if !file.is_file() {
                return Err(Error::file(
                    path,
                    format!(
                        "expected `{WEIGHTS_FILE}` in the folder, found none; give a model folder, a .safetensors \
                         or a torch file"
                    ),
                ));
            }
            return Self::open_with(&file, rename);
        }
        if !metadata.is_file() {
            return Err(Error::file(
                path,
                "expected a file or a folder, found something else; give a .safetensors or a torch file",
            ));
        }
        if metadata.len() == 0 {
            return Self::read(path, Content::Memory(Vec::new()), rename);
        }
        let file = File::open(path).map_err(|error| Error::file(path, error))?;
        // SAFETY: the map is only ever read, as bytes. That nobody changes the file meanwhile is
        // the condition stated above.
        let map = unsafe { Mmap::map(&file) }.map_err(|error| Error::file(path, error))?;
        Self::read(path, Content::Mapped(map), rename)
    }

    /// Reads a file's bytes like [`Weights::open`]; messages refer to it as `path`.
    pub fn from_bytes(bytes: Vec<u8>, path: &Path) -> Result<Self> {
        Self::read(path, Content::Memory(bytes), names::current)
    }

    fn read(path: &Path, content: Content, rename: Rename) -> Result<Self> {
        if content.is_empty() {
            let message = "the file is empty; expected a .safetensors or a torch file";
            return Err(Error::file(path, message));
        }
        let tensors = tensors::read(&content)
            .and_then(rename)
            .map_err(|message| Error::file(path, message))?;
        Ok(Self {
            path: path.to_path_buf(),
            content,
            tensors,
        })
    }

    /// Returns the path of the file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the metadata of this key, if the file is a safetensors file that has it.
    pub fn metadata(&self, key: &str) -> Option<String> {
        tensors::metadata(&self.content, key)
    }

    /// Returns the names of the tensors, in the order of the file.
    pub fn names(&self) -> impl ExactSizeIterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// Returns the shape of a tensor; `None` if the name is unknown.
    pub fn shape(&self, name: &str) -> Option<&[usize]> {
        self.tensors.get(name).map(|stored| stored.shape())
    }

    /// Returns the stored element type of a tensor; `None` if the name is unknown.
    pub fn dtype(&self, name: &str) -> Option<StoredType> {
        self.tensors.get(name).map(Stored::dtype)
    }

    /// Loads a tensor of floating-point numbers, converted to `dtype`: `F16`, `BF16`, `F32` or
    /// `F64`.
    ///
    /// Fails, with the tensor's name, if it is missing, its shape is not `expected_shape`, or its
    /// elements are not floating-point numbers.
    pub fn load(&self, name: &str, expected_shape: &[usize], dtype: DType, device: &Device) -> Result<Tensor> {
        if !matches!(dtype, DType::F16 | DType::BF16 | DType::F32 | DType::F64) {
            return Err(Error::input(format!(
                "tensor `{name}`: asked for as {dtype:?}, expected F16, BF16, F32 or F64"
            )));
        }
        let Some(stored) = self.tensors.get(name) else {
            return Err(Error::file(&self.path, self.missing(name, expected_shape)));
        };
        if stored.shape() != expected_shape || !stored.is_float() {
            return Err(Error::file(
                &self.path,
                format!(
                    "tensor `{name}`: expected shape {expected_shape:?} of floating-point numbers, \
                     found shape {:?} of {}; does the configuration belong to this file?",
                    stored.shape(),
                    stored.dtype()
                ),
            ));
        }
        stored
            .load(&self.content, dtype, device)
            .map_err(|error| Error::file(&self.path, format!("tensor `{name}`: {error}")))
    }

    /// Returns whether all numbers of a tensor are finite in float32; `true` for other element
    /// types.
    ///
    /// # Errors
    /// An unknown name, or a tensor that cannot be read.
    pub fn is_finite(&self, name: &str) -> Result<bool> {
        if self.tensors.get(name).is_some_and(|stored| !stored.is_float()) {
            return Ok(true);
        }
        let shape = self.shape(name).unwrap_or_default();
        let tensor = self.load(name, shape, DType::F32, &Device::Cpu)?;
        let numbers = tensor.flatten_all()?.to_vec1::<f32>()?;
        Ok(numbers.iter().all(|number| number.is_finite()))
    }

    fn missing(&self, name: &str, expected_shape: &[usize]) -> String {
        let found = match suggest::nearest(name, self.names()) {
            Some(nearest) => format!("the nearest name is `{nearest}`"),
            None if self.tensors.is_empty() => "the file has no tensors".into(),
            None => "no name is similar".to_owned(),
        };
        format!(
            "tensor `{name}`: expected a tensor of shape {expected_shape:?}, found none; {found} among {}",
            self.tensors.len()
        )
    }
}

impl Weights {
    /// Sets parameters to the tensors of the same names.
    ///
    /// # Errors
    /// A tensor that is missing or has another shape.
    pub fn load_into(&self, parameters: &Parameters) -> Result<()> {
        for parameter in parameters.iter() {
            let value = parameter.value();
            let loaded = self.load(parameter.name(), value.dims(), value.dtype(), value.device())?;
            parameter.set(&loaded)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIXTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures");

    fn fixture(name: &str) -> Weights {
        Weights::open(&Path::new(FIXTURES).join(name)).unwrap()
    }

    fn values(weights: &Weights, name: &str, shape: &[usize]) -> Vec<f32> {
        let tensor = weights.load(name, shape, DType::F32, &Device::Cpu).unwrap();
        tensor.flatten_all().unwrap().to_vec1().unwrap()
    }

    /// Returns the error of opening a file with this content.
    fn error_of(content: &[u8]) -> String {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.pth");
        std::fs::write(&path, content).unwrap();
        Weights::open(&path).unwrap_err().to_string()
    }

    #[test]
    fn a_file_cut_at_every_97th_byte_is_an_error() {
        let file = std::fs::read(format!("{FIXTURES}/torch_views.pth")).unwrap();
        for length in (0..file.len()).step_by(97) {
            assert!(
                tensors::read(&file[..length]).is_err(),
                "{length} of {} bytes",
                file.len()
            );
        }
    }

    #[test]
    fn both_formats_hold_the_same_parameters() {
        let (torch, safe) = (fixture("decoder_2d_st.pth"), fixture("decoder_2d_st.safetensors"));
        let mut parameters: Vec<&str> = safe.names().filter_map(|name| name.strip_prefix("param.")).collect();
        let mut names: Vec<&str> = torch.names().collect();
        assert_eq!(names[0], "start_tokens.0", "in the file's order");
        parameters.sort_unstable();
        names.sort_unstable();
        assert_eq!(names, parameters);
        for name in names {
            let shape = torch.shape(name).unwrap();
            assert_eq!(
                values(&torch, name, shape),
                values(&safe, &format!("param.{name}"), shape),
                "{name}"
            );
        }
    }

    #[test]
    fn bytes_are_read_like_the_file() {
        let path = Path::new(FIXTURES).join("torch_views.pth");
        let file = Weights::open(&path).unwrap();
        let memory = Weights::from_bytes(std::fs::read(&path).unwrap(), Path::new("memory")).unwrap();
        assert_eq!(memory.path(), Path::new("memory"));
        assert_eq!(file.names().collect::<Vec<_>>(), memory.names().collect::<Vec<_>>());
        assert_eq!(values(&file, "slice", &[2, 2]), values(&memory, "slice", &[2, 2]));
        let message = Weights::from_bytes(Vec::new(), &path).unwrap_err().to_string();
        assert!(message.contains("torch_views.pth: the file is empty"), "{message}");
    }

    #[test]
    fn every_way_of_storing_a_tensor_is_read() {
        // Made by tests/fixtures/torch_views.py.
        let weights = fixture("torch_views.pth");
        let whole: Vec<f32> = (0u8..24).map(f32::from).collect();
        assert_eq!(values(&weights, "whole", &[4, 6]), whole);
        let transposed: Vec<f32> = (0..24).map(|i| whole[i % 4 * 6 + i / 4]).collect();
        assert_eq!(values(&weights, "transposed", &[6, 4]), transposed);
        assert_eq!(values(&weights, "slice", &[2, 2]), [8., 10., 14., 16.]);
        assert_eq!(values(&weights, "row", &[6]), whole[18..]);
        assert_eq!(values(&weights, "scalar", &[]), [13.]);
        let permuted: Vec<f32> = (0..24).map(|i| whole[i % 6 * 4 + i / 6]).collect();
        assert_eq!(values(&weights, "permuted", &[4, 2, 3]), permuted);
        assert_eq!(values(&weights, "half", &[3]), [0.5, -1.5, 65504.]);
        assert_eq!(
            values(&weights, "brain", &[3]),
            [0.5, -1.5, half::bf16::from_f32(3e38).to_f32()]
        );
        assert_eq!(values(&weights, "parameter", &[2, 2]), [1., 2., 3., 4.]);
        assert_eq!(values(&weights, "tagged", &[2]), [7., 8.]);
        assert!(values(&weights, "empty", &[0, 3]).is_empty());
        assert_eq!(values(&weights, "token_embs_rev.1.embedding.weight", &[2, 2]), [1.; 4]);
        assert!(!weights.names().any(|name| name.contains("inv_freq")));
        assert_eq!(weights.dtype("permuted"), Some(StoredType::F64));
        assert_eq!((weights.dtype("absent"), weights.shape("absent")), (None, None));
        let half = weights.load("whole", &[4, 6], DType::BF16, &Device::Cpu).unwrap();
        assert_eq!(half.dtype(), DType::BF16);
    }

    #[test]
    fn errors_name_the_tensor_and_what_was_expected_and_found() {
        let weights = fixture("torch_views.pth");
        let message = |name: &str, shape: &[usize], dtype| {
            weights.load(name, shape, dtype, &Device::Cpu).unwrap_err().to_string()
        };
        let missing = message("transponsed", &[6, 4], DType::F32);
        assert!(
            missing.contains("torch_views.pth: tensor `transponsed`: expected a tensor of shape [6, 4]"),
            "{missing}"
        );
        assert!(missing.contains("the nearest name is `transposed`"), "{missing}");
        let shape = message("transposed", &[4, 6], DType::F32);
        assert!(shape.contains("`transposed`: expected shape [4, 6]"), "{shape}");
        assert!(shape.contains("found shape [6, 4] of F32"), "{shape}");
        let integers = message("count", &[3], DType::F32);
        assert!(
            integers.contains("`count`: expected shape [3] of floating-point numbers"),
            "{integers}"
        );
        assert!(integers.contains("found shape [3] of I64"), "{integers}");
        assert!(message("whole", &[4, 6], DType::U8).contains("asked for as U8"));
    }

    #[test]
    fn what_is_no_weights_file_is_told() {
        assert!(error_of(b"").contains("the file is empty"));
        assert!(error_of(b"seq_lens: [1, 2]").contains("of another format, beginning with `seq_lens: [1, 2]`"));
        assert!(error_of(b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.").contains("before torch 1.6; re-save"));
        assert!(error_of(b"version https://git-lfs.github.com/spec/v1\n").contains("git lfs pull"));
        let folder = tempfile::tempdir().unwrap();
        let message = Weights::open(folder.path()).unwrap_err().to_string();
        assert!(
            message.contains("expected `model.safetensors` in the folder"),
            "{message}"
        );
        std::fs::create_dir(folder.path().join(WEIGHTS_FILE)).unwrap();
        assert!(Weights::open(folder.path()).is_err(), "a folder in the file's place");
        let message = Weights::open(&folder.path().join("absent.pth"))
            .unwrap_err()
            .to_string();
        assert!(message.contains("absent.pth"), "{message}");
    }

    #[test]
    fn a_file_cut_short_says_so() {
        for name in ["decoder_2d_st.pth", "decoder_2d_st.safetensors"] {
            let file = std::fs::read(Path::new(FIXTURES).join(name)).unwrap();
            for length in [file.len() - 1, file.len() / 2, 3000] {
                let message = error_of(&file[..length]);
                assert!(message.contains("cut short"), "{name} cut to {length}: {message}");
            }
        }
    }
}
